//! Rejects, at compile time, models with devices that are used as layers of other models.

use std::marker::PhantomData;

use super::pipeline::Pipeline;

/// Determines from the type of a layer whether it is a model with devices, which cannot be nested.
#[doc(hidden)]
pub struct Nested<L>(PhantomData<L>);

impl<M: Pipeline> Nested<M> {
    pub const HAS_DEVICES: bool = true;
}

/// The default for all other types. `Nested::<L>::HAS_DEVICES` resolves to the inherent constant of
/// [`Nested`] if there is one, and to this one otherwise.
#[doc(hidden)]
pub trait NestedByDefault {
    const HAS_DEVICES: bool = false;
}

impl<L> NestedByDefault for Nested<L> {}

/// Checks at compile time that a layer can be nested. The error is reported at the caller.
///
/// # Panics
///
/// If the layer has devices.
#[doc(hidden)]
#[track_caller]
pub const fn nests(has_devices: bool) {
    assert!(
        !has_devices,
        "this model has devices of its own, so it does not nest as a layer\n\nhelp: remove its `#[device]`, `#[devices]` and \
         `#[stage]`: without devices it is a block and runs where the outer model says"
    );
}
