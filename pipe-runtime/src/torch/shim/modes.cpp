// Transfers the caller's modes (autocast, grad mode, and everything else that libtorch keeps per
// thread) to the workers.
#include "shim.h"

#include <ATen/ThreadLocalState.h>
#include <ATen/autocast_mode.h>
#include <c10/core/AutogradState.h>

namespace {

struct Entered {
  // What observes this thread goes on; a thread without that is observed as the caller is.
  std::shared_ptr<c10::ThreadLocalDebugInfo> observers = c10::ThreadLocalDebugInfo::current();
  at::ThreadLocalStateGuard guard;
  bool cache;

  explicit Entered(const at::ThreadLocalState& modes)
      : guard(modes), cache(at::autocast::is_autocast_cache_enabled()) {
    // The process has one cache of cast weights. Shared between workers, it gave wrong gradients.
    at::autocast::set_autocast_cache_enabled(false);
    if (observers) {
      c10::ThreadLocalDebugInfo::_forceCurrentDebugInfo(observers);
    }
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

// Sets autocast for one kind of device on this thread: to float16 if `half`, else to bfloat16.
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

// Identifies the memory of a tensor, which other tensors may share, and writes the number of its
// first element there. 0 for a tensor without memory of that form, such as a sparse one.
uint64_t pipe_memory_of(const at::Tensor* tensor, int64_t* offset) {
  if (!tensor->defined() || tensor->layout() != at::kStrided || !tensor->has_storage()) {
    return 0;
  }
  *offset = tensor->storage_offset();
  return reinterpret_cast<uintptr_t>(tensor->storage().unsafeGetStorageImpl());
}

// The number of in-place changes of `tensor`; 0 for tensors that do not count.
uint64_t pipe_version(const at::Tensor* tensor) {
  if (!tensor->defined() || tensor->is_inference()) {
    return 0;
  }
  return tensor->unsafeGetTensorImpl()->version_counter().current_version();
}

} // extern "C"
