//! The annotated struct as the library sees it: its plan, its layers and their context, its devices
//! and variables.

mod carried;
mod context;
pub(crate) mod devices;
mod layer;
mod plan;
mod plan_picture;
mod random;
mod reading;
mod repeat;
mod skips;
mod state;
mod sums;
mod tie;
mod vars;

pub use carried::Carried;
pub use context::Context;
pub use devices::Devices;
pub use layer::{Layer, pass, pass_if_some};
pub use plan::{LayerPlan, LentPlan, Plan, Recomputed, RecomputedPlan, Repeat, SkipPlan, Split, StagePlan, SumPlan};
pub use reading::{Reading1, Reading2, Reading3};
pub use repeat::{Repeated, each, gather_parts, one, run, run_each, run_one, spread};
pub use skips::{all_taken, as_many, join_skips, matching, no_skips, put_skip, same_length, take_skip};
pub use sums::{add_all, no_sums, slot};
pub use tie::{Tied, lend};
pub use vars::{LoadReport, Loader, Vars, sub_paths, sub_paths_vec};

pub use pipe_schedule::{CheapOutputs, Checkpoint};

pub(crate) use carried::Cells;
pub(crate) use context::{Observer, Pass, unique};
pub(crate) use state::{FirstPass, History, Rewound, State, Statistics, not_finite};
pub(crate) use vars::selected;

use pipe_schedule::ScheduleKind;

use crate::flow::Flow;

/// A struct of layers, annotated with `#[pipeline]`.
pub trait Model {
    /// The input of the model.
    type Input: Flow;
    /// The output of the model.
    type Output: Flow;
    /// Which layer runs in which stage, and where skips go.
    const PLAN: Plan;
    /// The annotated settings.
    const DEFAULTS: Defaults;
}

/// The annotated settings; `None` for those that are not annotated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Defaults {
    /// The number of micro-batches, from `chunks = N`.
    pub chunks: Option<usize>,
    /// The checkpoint mode, from `checkpoint = ...`.
    pub checkpoint: Option<Checkpoint>,
    /// What is done with cheap outputs, from `cheap_outputs = ...`.
    pub cheap_outputs: Option<CheapOutputs>,
    /// The schedule, from `schedule = ...`.
    pub schedule: Option<ScheduleKind>,
}

impl Defaults {
    /// No settings.
    pub const NONE: Self = Self { chunks: None, checkpoint: None, cheap_outputs: None, schedule: None };
}
