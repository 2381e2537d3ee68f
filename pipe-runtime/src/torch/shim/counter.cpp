// Handles on tensors' version counters, which count in-place changes. A handle may outlive its
// tensor and does not keep the tensor's memory alive.
#include "shim.h"

#include <c10/core/TensorImpl.h>

namespace {

struct Counter {
  c10::VariableVersion version;
};

} // namespace

extern "C" {

// Returns the tensor's counter. For a tensor without one, the count is always 0.
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

// Counts a change made through another tensor that shares the memory.
int pipe_counter_bump(Counter* counter) {
  return shim::guarded([&] {
    if (counter->version.enabled()) {
      counter->version.bump();
    }
  });
}

} // extern "C"
