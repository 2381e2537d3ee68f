//! What generated code calls. Not for users: it changes without notice.

pub use crate::flow::{Flow, IntoFlow, MiniBatch, Packer, Unpacker};
pub use crate::layer::run;
pub use crate::repeat::{Repeated, gather_parts, run_each, spread};
pub use crate::stages::{
    Graph, Io, Layers, Nested, NestedByDefault, Pipeline, Port, keep, movable, movable_part, nests, output, with_skips,
};
pub use crate::tie::lend;
pub use crate::vars::{sub_paths, sub_paths_vec};
pub use crate::{
    Checkpoint, Context, Defaults, Devices, InPlace, Layer, LayerPlan, Method, Model, PipeBuilder, Plan, Result,
    SkipPlan, Split, StagePlan, Vars,
};
pub use pipe_macros::__Pipeline;
pub use tch::Tensor;
pub use tch::nn::Path;
