// Gradient norms and optimizer updates, on pieces of parameters: libtorch's fused kernels, each of
// which reads and writes every number once.
#include "shim.h"

#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adam.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/_fused_sgd.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>

namespace {

// The norm of a large piece is taken row by row. A row is reduced by one thread, so the result does
// not depend on the number of threads.
constexpr int64_t kRow = 1 << 14;

// Elements [start, start + length) of a dense tensor, in the order of its memory. No operator is
// called, so what an update needs beside its kernels cannot fail once it has begun elsewhere.
at::Tensor piece_of(const at::Tensor& tensor, int64_t start, int64_t length) {
  auto piece = c10::make_intrusive<c10::TensorImpl>(
      c10::TensorImpl::VIEW, c10::Storage(tensor.storage()), tensor.key_set(), tensor.dtype());
  piece->set_storage_offset(tensor.storage_offset() + start);
  piece->set_sizes_contiguous({length});
  return at::Tensor(std::move(piece));
}

at::Tensor norms(const at::Tensor& values, int64_t row) {
  const at::Tensor rows = values.view({-1, row});
  return at::linalg_vector_norm(rows, 2, at::IntArrayRef{1}, false, std::nullopt);
}

double sum_of_squares(const at::Tensor& values) {
  double sum = 0;
  auto add = [&](const at::Tensor& found) {
    const at::Tensor wide = found.to(at::kDouble);
    for (int64_t i = 0; i < wide.numel(); ++i) {
      const double norm = wide.const_data_ptr<double>()[i];
      sum += norm * norm;
    }
  };
  const int64_t whole = values.numel() / kRow * kRow;
  if (whole > 0) {
    add(norms(values.narrow(0, 0, whole), kRow));
  }
  if (whole < values.numel()) {
    add(norms(values.narrow(0, whole, values.numel() - whole), values.numel() - whole));
  }
  return sum;
}

} // namespace

extern "C" {

// A piece of a parameter, and of the tensors that an update of it uses. Those that the rule does
// not have are null.
struct Piece {
  const at::Tensor* parameter;
  // Adam: both averages, and the maximum of the second one. SGD: the momentum buffer.
  const at::Tensor* state[3];
  // The moving average of the parameter.
  const at::Tensor* average;
  int64_t start, length;
};

enum class RuleKind : int32_t { kAdam = 0, kAdamW = 1, kSgd = 2 };

// The rule by which a group of parameters is updated, as it is in this step.
struct Rule {
  RuleKind kind;
  int32_t amsgrad, nesterov, maximize;
  double lr, beta1, beta2, eps, weight_decay, momentum, dampening;
  // The number of this update of the parameter, from 1.
  int64_t step;
  // Each gradient is divided by this number first, unless it is 1.
  double divisor;
  // Then each gradient is clamped to [-clamp, clamp], unless that is infinite.
  double clamp;
  // The weight of the new parameter in its moving average.
  double average_weight;
};

enum class GradientState : int32_t { kNone, kReady, kSparse, kUnfit, kUnfitParameter };

// Says whether the parameter can be updated by pieces. Brings its gradient into the parameter's
// memory layout, if it has another one.
int pipe_gradient_prepare(const at::Tensor* parameter, GradientState* state) {
  return shim::guarded([&] {
    at::NoGradGuard no_grad;
    at::Tensor& gradient = parameter->mutable_grad();
    const auto floats = [](const at::Tensor& tensor) {
      return tensor.layout() == at::kStrided && at::isFloatingType(tensor.scalar_type());
    };
    if (!gradient.defined()) {
      *state = GradientState::kNone;
    } else if (!floats(*parameter) || !parameter->is_non_overlapping_and_dense()) {
      *state = GradientState::kUnfitParameter;
    } else if (gradient.is_sparse()) {
      *state = GradientState::kSparse;
    } else if (
        !floats(gradient) || gradient.sizes() != parameter->sizes() ||
        gradient.scalar_type() != parameter->scalar_type() || gradient.device() != parameter->device()) {
      *state = GradientState::kUnfit;
    } else {
      *state = GradientState::kReady;
      if (gradient.strides() != parameter->strides() || !gradient.is_non_overlapping_and_dense()) {
        gradient = at::empty_like(*parameter).copy_(gradient);
      }
    }
  });
}

// For each piece, the sum of the squares of its gradient, in double precision. All of them are on
// one device. On an accelerator, the caller waits for the result.
int pipe_gradient_squares(const Piece* pieces, size_t count, double* sums) {
  return shim::guarded([&] {
    at::NoGradGuard no_grad;
    std::vector<at::Tensor> gradients;
    for (size_t i = 0; i < count; ++i) {
      gradients.push_back(piece_of(pieces[i].parameter->grad(), pieces[i].start, pieces[i].length));
    }
    if (count == 0 || gradients[0].is_cpu()) {
      for (size_t i = 0; i < count; ++i) {
        sums[i] = sum_of_squares(gradients[i]);
      }
      return;
    }
    std::vector<at::Tensor> wide;
    for (const at::Tensor& norm : at::_foreach_norm(gradients, 2)) {
      wide.push_back(norm.to(at::kDouble));
    }
    const at::Tensor found = at::stack(wide).cpu();
    for (size_t i = 0; i < count; ++i) {
      const double norm = found.const_data_ptr<double>()[i];
      sums[i] = norm * norm;
    }
  });
}

// Updates the pieces by the rule. All of them are of one kind and on one device.
int pipe_fused_update(const Rule* rule, const Piece* pieces, size_t count) {
  return shim::guarded([&] {
    at::NoGradGuard no_grad;
    if (count == 0) {
      return;
    }
    std::vector<at::Tensor> parameters, gradients, averages, states[3];
    for (size_t i = 0; i < count; ++i) {
      const Piece& piece = pieces[i];
      auto add = [&](std::vector<at::Tensor>& list, const at::Tensor* tensor) {
        if (tensor != nullptr) {
          list.push_back(piece_of(*tensor, piece.start, piece.length));
        }
      };
      add(parameters, piece.parameter);
      if (piece.start == 0) {
        // A fused kernel does not count as a change for autograd, which would then use the new
        // parameter in the backward of a graph from before the update.
        piece.parameter->unsafeGetTensorImpl()->bump_version();
      }
      add(gradients, &piece.parameter->grad());
      add(averages, piece.average);
      for (size_t state = 0; state < 3; ++state) {
        add(states[state], piece.state[state]);
      }
    }
    // On the CPU, the numbers are tensors of this function's own memory, so that an update that has
    // begun elsewhere cannot fail here because there is none left.
    float numbers[] = {static_cast<float>(rule->divisor), static_cast<float>(rule->step)};
    auto number = [&](size_t index) {
      const auto options = parameters[0].options().dtype(at::kFloat);
      return parameters[0].is_cpu() ? at::from_blob(&numbers[index], {}, options)
                                    : at::full({}, numbers[index], options);
    };
    std::optional<at::Tensor> divisor;
    if (rule->divisor != 1) {
      divisor = number(0);
    }
    if (std::isfinite(rule->clamp)) {
      if (divisor) {
        at::_foreach_div_(gradients, *divisor);
        divisor.reset();
      }
      at::_foreach_clamp_min_(gradients, -rule->clamp);
      at::_foreach_clamp_max_(gradients, rule->clamp);
    }
    switch (rule->kind) {
      case RuleKind::kSgd: {
        auto update = [&](at::TensorList values, at::TensorList by, at::TensorList momentum) {
          at::_fused_sgd_(
              values, by, momentum, rule->weight_decay, rule->momentum, rule->lr, rule->dampening,
              rule->nesterov != 0, rule->maximize != 0, rule->step == 1, divisor);
        };
        if (!parameters[0].is_cpu() || parameters[0].element_size() > 2) {
          update(parameters, gradients, states[0]);
          break;
        }
        // In 16 bits, libtorch's kernel for CPUs leaves the parameters as they are (2.11; 2.15 is
        // right), so this computes in 32 bits, as that kernel should.
        auto wide = [](const std::vector<at::Tensor>& list) {
          std::vector<at::Tensor> copies;
          for (const at::Tensor& tensor : list) {
            copies.push_back(tensor.to(at::kFloat));
          }
          return copies;
        };
        std::vector<at::Tensor> values = wide(parameters), momentum = wide(states[0]);
        update(values, wide(gradients), momentum);
        at::_foreach_copy_(parameters, values);
        if (!momentum.empty()) {
          at::_foreach_copy_(states[0], momentum);
        }
        break;
      }
      case RuleKind::kAdam:
      case RuleKind::kAdamW: {
        const std::vector<at::Tensor> steps(count, number(1));
        auto update = [&](auto&& fused) {
          fused(
              parameters, gradients, states[0], states[1], states[2], steps, rule->lr, rule->beta1,
              rule->beta2, rule->weight_decay, rule->eps, rule->amsgrad != 0, rule->maximize != 0,
              divisor, std::nullopt);
        };
        if (rule->kind == RuleKind::kAdam) {
          update([](auto&&... args) { at::_fused_adam_(args...); });
        } else {
          update([](auto&&... args) { at::_fused_adamw_(args...); });
        }
        break;
      }
    }
    if (!averages.empty()) {
      at::_foreach_lerp_(averages, parameters, rule->average_weight);
    }
  });
}

} // extern "C"
