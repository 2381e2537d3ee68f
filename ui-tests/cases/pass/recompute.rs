//! Recomputed layers: single ones, optional ones, arrays and parts of them, with skips in and out,
//! at the beginning, in the middle and at the end of a stage.

use pipe_runtime::nn::Linear;
use pipe_runtime::{Context, Layer, Tensor, pipeline};

struct Merge;

impl Layer<(Tensor, Tensor)> for Merge {
    type Out = Tensor;

    fn run(&self, (x, _): (Tensor, Tensor), _: &Context) -> Tensor {
        x
    }
}

#[pipeline(checkpoint = except_last)]
struct Model {
    #[device("cuda:0")]
    #[recompute]
    #[stash(early = input, late = output)]
    encode: Linear,
    middle: Linear,
    #[recompute]
    #[pop(early)]
    merge: Merge,
    #[recompute]
    #[repeat]
    #[stash(first = input)]
    blocks: [Linear; 4],
    #[devices("cuda:0" = 2, "cuda:1" = 3)]
    #[recompute(3)]
    more: Vec<Linear>,
    #[recompute]
    maybe: Option<Linear>,
    #[pop(late)]
    again: Merge,
    #[recompute]
    #[pop(first)]
    last: Merge,
}

#[pipeline(schedule = gpipe, chunks = 2)]
struct Last {
    #[device("cpu")]
    encode: Linear,
    #[device("cpu")]
    #[recompute]
    decode: Linear,
}

const _: () = assert!(Model::STAGES == 2 && Last::STAGES == 2);

fn main() {}
