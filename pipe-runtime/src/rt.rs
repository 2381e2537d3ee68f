//! The items that generated code uses. They are not public API and may change without notice.

pub use crate::error::Result;
pub use crate::flow::{Flow, IntoFlow, MiniBatch, Packer, Portable, Unpacker, is_portable};
pub use crate::model::{
    CheapOutputs, Checkpoint, Context, Defaults, Devices, Layer, LayerPlan, LentPlan, Model, Plan, Reading1, Reading2,
    Reading3, Recomputed, RecomputedPlan, Repeated, SkipPlan, Split, StagePlan, SumPlan, Vars, add_all, all_taken,
    as_many, each, gather_parts, join_skips, lend, matching, no_skips, no_sums, one, pass, pass_if_some, put_skip, run,
    run_each, run_one, same_length, slot, spread, sub_paths, sub_paths_vec, take_skip,
};
pub use crate::pipe::{PipeBuilder, Unpipelined};
pub use crate::stages::{
    Element, Graph, Io, Layers, Nested, NestedByDefault, Pipeline, Port, Ports, keep, movable, movable_part, nests,
    output, release, whole, with_skips,
};
pub use pipe_macros::__Pipeline;
pub use pipe_schedule::ScheduleKind;
pub use tch::Tensor;
pub use tch::nn::Path;
