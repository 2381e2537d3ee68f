//! Where stages begin.
#![deny(warnings)]

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

/// Layers on the same accelerator stay in its stage, even between the parts of spread layers.
#[pipeline]
pub struct Merged {
    #[device("cuda:0")]
    first: Linear,
    #[devices("cuda:0", "cuda:0", "cuda:1")]
    blocks: [Linear; 7],
    #[device("cuda:1")]
    last: Linear,
}

/// `cpu` opens a stage each time, and so does `#[stage]`.
#[pipeline]
pub struct Cut {
    #[device("cpu")]
    one: Linear,
    #[device("cpu")]
    two: Linear,
    #[stage]
    #[devices("cpu" = 2, "cuda:0" = 2)]
    blocks: Vec<Linear>,
    #[stage]
    #[repeat]
    more: Vec<Linear>,
}

/// `#[devices(..)]` with one device does the same as `#[device(..)]` with `#[repeat]`.
#[pipeline]
pub struct Single {
    #[devices("mps")]
    one: [Linear; 2],
    #[device("xpu:1")]
    #[repeat]
    two: [Linear; 2],
}

fn main() {
    let devices =
        |stages: &[pipe_runtime::__rt::StagePlan]| stages.iter().map(|stage| stage.device).collect::<Vec<_>>();
    assert_eq!(devices(Merged::PLAN.stages), ["cuda:0", "cuda:1"]);
    assert_eq!(Merged::PLAN.stages[0].layers.len(), 3);
    assert_eq!(devices(Cut::PLAN.stages), ["cpu", "cpu", "cpu", "cuda:0", "cuda:0"]);
    assert_eq!(devices(Single::PLAN.stages), ["mps", "xpu:1"]);
}
