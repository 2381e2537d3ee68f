//! Checks at compile time, by types, that models with devices do not nest as layers.

use std::marker::PhantomData;

use super::pipeline::Pipeline;

/// Tells from a layer's type whether it is a model with devices, which does not nest.
#[doc(hidden)]
pub struct Nested<L>(PhantomData<L>);

impl<M: Pipeline> Nested<M> {
    pub const HAS_DEVICES: bool = true;
}

/// The answer for all other types. It has the same path, and is found only if the constant of
/// [`Nested`] does not exist.
#[doc(hidden)]
pub trait NestedByDefault {
    const HAS_DEVICES: bool = false;
}

impl<L> NestedByDefault for Nested<L> {}

/// Checks at compile time that a layer nests, at the place that asks.
///
/// # Panics
///
/// Panics at compile time if the layer has devices.
#[doc(hidden)]
#[track_caller]
pub const fn nests(has_devices: bool) {
    assert!(
        !has_devices,
        "this model has devices of its own, so it does not nest as a layer\n\nhelp: remove its `#[device]`, `#[devices]` and \
         `#[stage]`: without devices it is a block and runs where the outer model says"
    );
}
