//! Models with devices do not nest as layers, which their types say at compile time.

use std::marker::PhantomData;

use super::pipeline::Pipeline;

/// What a layer's type alone says at compile time: whether it is a model with devices, which does
/// not nest.
#[doc(hidden)]
pub struct Nested<L>(PhantomData<L>);

impl<M: Pipeline> Nested<M> {
    pub const HAS_DEVICES: bool = true;
}

/// The answer for all other types. It is found by the same path, but only where the constant of
/// [`Nested`] is not there.
#[doc(hidden)]
pub trait NestedByDefault {
    const HAS_DEVICES: bool = false;
}

impl<L> NestedByDefault for Nested<L> {}

/// Checks at compile time that a layer nests, at the place that asks.
///
/// # Panics
///
/// If it has devices.
#[doc(hidden)]
#[track_caller]
pub const fn nests(has_devices: bool) {
    assert!(
        !has_devices,
        "this model has devices of its own, so it does not nest as a layer\n\nhelp: remove its `#[device]`, `#[devices]` and \
         `#[stage]`: without devices it is a block and runs where the outer model says"
    );
}
