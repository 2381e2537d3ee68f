// Operators with a number. tch's own fallible methods for them panic when they fail, because the
// number is dropped, with a check for errors, before the error is read.
#include "shim.h"

extern "C" {

int pipe_times(const at::Tensor* value, double factor, at::Tensor** product) {
  return shim::guarded([&] { *product = new at::Tensor(at::mul(*value, factor)); });
}

int pipe_divide(at::Tensor* value, double divisor) {
  return shim::guarded([&] { value->div_(divisor); });
}

int pipe_full_like(const at::Tensor* value, double number, at::Tensor** full) {
  return shim::guarded([&] { *full = new at::Tensor(at::full_like(*value, number)); });
}

} // extern "C"
