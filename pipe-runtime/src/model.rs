//! What `#[pipeline]` implements for a struct.

use crate::{Checkpoint, Flow, Method, Plan};

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
