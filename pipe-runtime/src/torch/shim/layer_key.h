// The dispatch key that is on while a layer runs. Operators that draw random numbers or that write
// have a kernel on it (`layer_key.cpp`). Other operators are not affected.
#pragma once

#include "shim.h"

#include <c10/core/impl/LocalDispatchKeySet.h>

namespace shim {

// A spare key above autograd's.
constexpr auto kLayerKey = c10::DispatchKey::TESTING_ONLY_GenericMode;

// Whether this thread is running a layer.
inline bool in_layer() {
  return c10::impl::tls_is_dispatch_key_included(kLayerKey);
}

// Returns the generator of this thread's rng for a device: see `random.cpp`.
at::Generator rng_on(c10::Device device);

// Whether this thread watches the writes of its layers: see `state.cpp`.
bool watches_writes();

// Notes that an operator of a layer is about to write to the tensor. `statistic` says that the
// tensor is a statistic of a norm, which the norm's backward does not read.
void about_to_write(const at::Tensor& tensor, bool statistic);

} // namespace shim
