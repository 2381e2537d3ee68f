//! The model side of a pipeline: the plan of an annotated struct, its layers and their context, and
//! its devices and variables.

mod carried;
mod context;
mod devices;
mod layer;
mod plan;
mod random;
mod repeat;
mod state;
mod tie;
mod vars;

pub use carried::Carried;
pub use context::Context;
pub use devices::Devices;
pub use layer::{Layer, pass, pass_if_some};
pub use plan::{LayerPlan, Plan, Repeat, SkipPlan, Split, StagePlan};
pub use repeat::{Repeated, gather_parts, run_each, spread};
pub use tie::{Tied, lend};
pub use vars::{Vars, sub_paths, sub_paths_vec};

pub use pipe_schedule::Checkpoint;

pub(crate) use carried::Cells;
pub(crate) use context::{Observer, Pass, unique};
pub(crate) use state::{FirstPass, History, Next, Rewound, State, not_finite};

use pipe_schedule::ScheduleKind;

use crate::flow::Flow;

/// A struct of layers, annotated with `#[pipeline]`.
pub trait Model {
    /// The type of the model's input.
    type Input: Flow;
    /// The type of the model's output.
    type Output: Flow;
    /// The stage of each layer, and the skips.
    const PLAN: Plan;
    /// The annotated settings.
    const DEFAULTS: Defaults;
}

/// The annotated settings; `None` where a setting is not annotated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Defaults {
    /// `chunks = N`.
    pub chunks: Option<usize>,
    /// `checkpoint = ...`.
    pub checkpoint: Option<Checkpoint>,
    /// `schedule = ...`.
    pub schedule: Option<ScheduleKind>,
}
