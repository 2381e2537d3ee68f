// The dispatch key that is active while a layer runs. Operators that draw or write have a kernel
// for it (`layer_key.cpp`); other operators are not affected.
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

// Whether this thread watches what its layers write: see `state.cpp`.
bool watches_writes();

// An operator of a layer is about to write to the tensor: as a `statistic` of a norm, which its
// backward does not read, or as any other write.
void about_to_write(const at::Tensor& tensor, bool statistic);

// Whether this thread notes how cheap outputs are made, and what an operator is about to write to:
// see `cheap.cpp`.
bool notes_cheap_outputs();
void cheap_about_to_write(const at::Tensor& tensor);

} // namespace shim
