// Version counters without their tensors. A version counter counts the in-place changes of a
// tensor. It can outlive the tensor, and does not keep its memory.
#include "shim.h"

#include <c10/core/TensorImpl.h>

namespace {

struct Counter {
  c10::VariableVersion version;
};

} // namespace

extern "C" {

// Writes a handle on the tensor's counter. For a tensor without one, the count is always 0.
int pipe_counter_of(const at::Tensor* tensor, Counter** counter) {
  return shim::guarded(
      [&] { *counter = new Counter{tensor->unsafeGetTensorImpl()->version_counter()}; });
}

void pipe_counter_free(Counter* counter) {
  delete counter;
}

uint64_t pipe_counter_now(const Counter* counter) {
  return counter->version.enabled() ? counter->version.current_version() : 0;
}

// Counts a change that was made through another tensor on the same memory.
int pipe_counter_bump(Counter* counter) {
  return shim::guarded([&] {
    if (counter->version.enabled()) {
      counter->version.bump();
    }
  });
}

} // extern "C"
