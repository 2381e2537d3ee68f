//! Lent values: by arrays, blocks, weights, inside a stage and across stages, beside skips.

use pipe_runtime::nn::{Concat, Linear};
use pipe_runtime::{Context, Layer, Tensor, pipeline};

/// Takes its input, a skip and a mask.
struct Three;

impl Layer<(Tensor, Tensor, Tensor)> for Three {
    type Out = Tensor;
    fn run(&self, _: (Tensor, Tensor, Tensor), _: &Context) -> Tensor {
        unreachable!()
    }
}

/// Takes both values that its model lends.
#[pipeline(read(memory: Tensor, mask: Tensor))]
struct Decoder {
    #[read(mask)]
    own: Concat,
    #[read(memory, mask)]
    other: Three,
    feed: Linear,
}

/// Hands on what it reads.
#[pipeline(read(memory: Tensor, mask: Tensor))]
struct Decoders {
    #[repeat]
    #[read(memory, mask)]
    layers: Vec<Decoder>,
}

#[pipeline(input = (Tensor, Tensor), chunks = 4)]
struct Model<const N: usize> {
    #[device("cpu")]
    #[lend(mask = input.1)]
    first: First,
    #[lend(words = tied)]
    embed: Linear,
    #[devices("cpu", "cpu")]
    #[lend(memory = output)]
    #[stash(start = input)]
    encode: [Linear; 4],
    #[read(memory, mask)]
    near: Decoder,
    #[devices("cpu", "cpu")]
    #[recompute]
    #[read(memory, mask)]
    decode: [Decoder; N],
    #[recompute]
    #[read(mask)]
    #[pop(start)]
    join: Three,
    #[read(memory, mask)]
    rest: Decoders,
    #[read(words)]
    head: Concat,
    #[read(words)]
    check: Concat,
}

struct First;

impl Layer<(Tensor, Tensor)> for First {
    type Out = Tensor;
    fn run(&self, _: (Tensor, Tensor), _: &Context) -> Tensor {
        unreachable!()
    }
}

fn main() {}
