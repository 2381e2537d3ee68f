//! What `#[pipeline]` implements for a struct.

use std::marker::PhantomData;

use crate::graph::{Graph, Layers};
use crate::{Checkpoint, Flow, Method, Plan, Result};

/// A struct of layers, annotated with `#[pipeline]`.
pub trait Model {
    /// What flows in.
    type Input: Flow;
    /// What flows out.
    type Output: Flow;
    /// Which layer runs where.
    const PLAN: Plan;
    /// The annotated settings.
    const DEFAULTS: Defaults;
}

/// What is known of a layer at compile time by its type alone: whether it is a model with devices, which does not nest.
#[doc(hidden)]
pub struct Nested<L>(PhantomData<L>);

impl<M: Pipeline> Nested<M> {
    pub const HAS_DEVICES: bool = true;
}

/// Of all other types. Found by the same path, but only where the constant above is not there.
#[doc(hidden)]
pub trait NestedByDefault {
    const HAS_DEVICES: bool = false;
}

impl<L> NestedByDefault for Nested<L> {}

/// Whether a layer nests, answered at compile time at the place that asks.
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

/// What the last layer gives, as what the model gives.
#[doc(hidden)]
pub fn output<M: Model>(value: M::Output) -> M::Output {
    value
}

/// A [`Model`] with devices, which can be taken apart into stages.
pub trait Pipeline: Model + Sized + 'static {
    /// The fields that are not layers.
    type Plain;

    /// Hands the layers to their stages.
    #[doc(hidden)]
    fn disassemble(self, graph: &mut Graph) -> Result<Self::Plain>;

    /// Takes them back.
    #[doc(hidden)]
    fn assemble(layers: &mut Layers, plain: Self::Plain) -> Self;
}

/// The settings that are annotated; `None` where nothing is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Defaults {
    /// `chunks = N`.
    pub chunks: Option<usize>,
    /// `checkpoint = ...`.
    pub checkpoint: Option<Checkpoint>,
    /// `schedule = ...`.
    pub schedule: Option<Method>,
}
