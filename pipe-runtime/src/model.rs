//! What `#[pipeline]` implements for a struct.

use crate::graph::{Graph, Layers};
use crate::{Checkpoint, Flow, Plan, Result};

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
}
