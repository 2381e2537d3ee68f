// Version counters apart from their tensors: what counts how often a tensor has been changed in
// place outlives the tensor, and keeps none of its memory.
#include "shim.h"

#include <c10/core/TensorImpl.h>

namespace {

struct Counter {
  c10::VariableVersion version;
};

} // namespace

extern "C" {

// The tensor's counter. Tensors without one count nothing.
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
