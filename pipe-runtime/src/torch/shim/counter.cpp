// Version counters without their tensors: a counter of in-place changes outlives its tensor, and
// keeps none of the tensor's memory.
#include "shim.h"

#include <c10/core/TensorImpl.h>

namespace {

struct Counter {
  c10::VariableVersion version;
};

} // namespace

extern "C" {

// The counter of the tensor. Tensors without a counter do not count.
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
