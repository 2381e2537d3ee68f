// Carries the caller's modes (autocast, grad mode and everything else that libtorch keeps per
// thread) to the workers.
#include "shim.h"

#include <ATen/ThreadLocalState.h>
#include <ATen/autocast_mode.h>
#include <c10/core/AutogradState.h>

namespace {

struct Entered {
  at::ThreadLocalStateGuard guard;
  bool cache;

  explicit Entered(const at::ThreadLocalState& modes)
      : guard(modes), cache(at::autocast::is_autocast_cache_enabled()) {
    // The process has a single cache of cast weights. Sharing it between workers gave wrong
    // gradients.
    at::autocast::set_autocast_cache_enabled(false);
  }
  ~Entered() {
    at::autocast::set_autocast_cache_enabled(cache);
  }
};

} // namespace

extern "C" {

int pipe_modes_capture(at::ThreadLocalState** modes) {
  return shim::guarded([&] { *modes = new at::ThreadLocalState(); });
}

void pipe_modes_free(at::ThreadLocalState* modes) {
  delete modes;
}

int pipe_modes_enter(const at::ThreadLocalState* modes, Entered** entered) {
  return shim::guarded([&] { *entered = new Entered(*modes); });
}

void pipe_modes_leave(Entered* entered) {
  delete entered;
}

// Sets autocast for one type of device on this thread: to float16 if `half`, else to bfloat16.
// Writes the previous settings.
int pipe_autocast_set(int cuda, int enabled, int half, int* enabled_before, int* half_before) {
  return shim::guarded([&] {
    auto device = cuda ? at::kCUDA : at::kCPU;
    *enabled_before = at::autocast::is_autocast_enabled(device);
    *half_before = at::autocast::get_autocast_dtype(device) == at::kHalf;
    at::autocast::set_autocast_enabled(device, enabled != 0);
    at::autocast::set_autocast_dtype(device, half ? at::kHalf : at::kBFloat16);
    if (!enabled) {
      at::autocast::clear_cache();
    }
  });
}

int pipe_grad_mode() {
  return at::GradMode::is_enabled();
}

void pipe_set_grad_mode(int enabled) {
  at::GradMode::set_enabled(enabled != 0);
}

// The number of in-place changes of `tensor` so far; 0 if it has no version counter.
uint64_t pipe_version(const at::Tensor* tensor) {
  if (!tensor->defined() || tensor->is_inference()) {
    return 0;
  }
  return tensor->unsafeGetTensorImpl()->version_counter().current_version();
}

} // extern "C"
