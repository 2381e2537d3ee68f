// The functions that libtorch 2.14 no longer has and torch-sys 0.26 still calls, defined by their
// replacements. They let `cargo xtask pairs` build this tch on a newer libtorch than its own.
#pragma once

#include <torch/torch.h>

namespace torch {

inline at::Tensor cholesky(const at::Tensor& self, bool upper) {
  return at::linalg_cholesky(self, upper);
}

inline at::Tensor& cholesky_out(at::Tensor& out, const at::Tensor& self, bool upper) {
  return at::linalg_cholesky_out(out, self, upper);
}

inline std::tuple<at::Tensor, at::Tensor> qr(const at::Tensor& self, bool some) {
  return at::linalg_qr(self, some ? "reduced" : "complete");
}

inline std::tuple<at::Tensor&, at::Tensor&>
qr_out(at::Tensor& q, at::Tensor& r, const at::Tensor& self, bool some) {
  return at::linalg_qr_out(q, r, self, some ? "reduced" : "complete");
}

} // namespace torch
