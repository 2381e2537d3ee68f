//! Models with devices do not nest as layers. Their types tell this at compile time.

use std::marker::PhantomData;

use super::pipeline::Pipeline;

/// Tells at compile time, from a layer's type alone, whether it is a model with devices. Such a
/// model does not nest.
#[doc(hidden)]
pub struct Nested<L>(PhantomData<L>);

impl<M: Pipeline> Nested<M> {
    pub const HAS_DEVICES: bool = true;
}

/// The answer for all other types. The same path leads to it, but only where [`Nested`] has no
/// constant of its own.
#[doc(hidden)]
pub trait NestedByDefault {
    const HAS_DEVICES: bool = false;
}

impl<L> NestedByDefault for Nested<L> {}

/// Checks at compile time that a layer nests. The error points at the caller.
///
/// # Panics
///
/// Panics if the layer has devices.
#[doc(hidden)]
#[track_caller]
pub const fn nests(has_devices: bool) {
    assert!(
        !has_devices,
        "this model has devices of its own, so it does not nest as a layer\n\nhelp: remove its `#[device]`, `#[devices]` and \
         `#[stage]`: without devices it is a block and runs where the outer model says"
    );
}
