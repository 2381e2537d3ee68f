//! The items that generated code uses. They are not public API and may change without notice.

pub use crate::error::Result;
pub use crate::flow::{Flow, IntoFlow, MiniBatch, Packer, Portable, Unpacker};
pub use crate::model::{
    CheapOutputs, Checkpoint, Context, Defaults, Devices, Layer, LayerPlan, LentPlan, Model, Plan, Recomputed,
    RecomputedPlan, Repeated, SkipPlan, Split, StagePlan, SumPlan, Vars, add_all, gather_parts, lend, no_sums, pass,
    pass_if_some, run_each, run_each_adding, run_each_reading, run_one, run_one_adding, run_one_reading, slot, spread,
    sub_paths, sub_paths_vec,
};
pub use crate::pipe::{PipeBuilder, Unpipelined};
pub use crate::stages::{
    Element, Graph, Io, Layers, Nested, NestedByDefault, Pipeline, Port, keep, movable, movable_part, nests, output,
    with_skips,
};
pub use pipe_macros::__Pipeline;
pub use pipe_schedule::ScheduleKind;
pub use tch::Tensor;
pub use tch::nn::Path;
