// The dispatch key that is enabled while a layer runs. Operators that draw or write have a kernel
// on it (`layer_key.cpp`); no other operator is affected.
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

// Whether this thread records what its layers write: see `state.cpp`.
bool watches_writes();

// Called before an operator of a layer writes to the tensor. With `statistic`, it is written only
// as a statistic of a norm, which the norm's backward does not read.
void about_to_write(const at::Tensor& tensor, bool statistic);

} // namespace shim
