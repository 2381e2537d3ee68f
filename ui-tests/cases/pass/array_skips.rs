//! A skip of each layer of an array: spread, recomputed, in a block, beside others.

use pipe_runtime::nn::{Concat, Linear, Split};
use pipe_runtime::{Context, Layer, Mean, Tensor, pipeline};

/// Takes a skip, what is lent and another skip; returns its output and what it adds.
struct Up;

impl Layer<(Tensor, Tensor, Tensor, Tensor)> for Up {
    type Out = (Tensor, Tensor);
    fn run(&self, _: (Tensor, Tensor, Tensor, Tensor), _: &Context) -> (Tensor, Tensor) {
        unreachable!()
    }
}

#[pipeline(sum(size: Mean), chunks = 4)]
struct Net<const DEPTH: usize> {
    #[device("cpu")]
    #[lend(time = output)]
    embed: Linear,
    #[devices("cpu", "cpu")]
    #[stash(level[..], before[..] = input)]
    downs: [Split; DEPTH],
    middle: Linear,
    #[devices("cpu" = 1, "cpu" = 3)]
    #[recompute]
    #[pop(level[..], before[..])]
    #[read(time)]
    #[sum(size)]
    ups: [Up; DEPTH],
}

/// Parts on one accelerator are one stage.
#[pipeline]
struct Merged {
    #[devices("cuda:0", "cuda:0", "cuda:1")]
    #[stash(level[..])]
    downs: [Split; 5],
    #[devices("cuda:1", "cuda:0", "cuda:0")]
    #[pop(level[..])]
    ups: [Concat; 5],
}

#[pipeline]
struct Block<D: Layer<Tensor, Out = (Tensor, Tensor)>> {
    #[repeat]
    #[stash(level[..])]
    downs: Vec<D>,
    #[repeat]
    #[pop(level[..])]
    ups: Vec<Concat>,
}

#[pipeline]
struct Outer {
    #[devices("cpu" = 1, "cpu" = 2)]
    blocks: [Block<Split>; 3],
    #[repeat]
    #[recompute(1)]
    #[stash(kept[..] = output)]
    one: [Linear; 2],
    #[repeat]
    #[pop(kept[..])]
    two: [Concat; 2],
}

/// Lengths that are written differently and are equal.
const DEPTH: usize = 4;

#[pipeline]
struct Constants {
    #[device("cpu")]
    #[repeat]
    #[stash(level[..])]
    downs: [Split; DEPTH],
    #[device("cpu")]
    #[repeat]
    #[pop(level[..])]
    ups: [Concat; 2 + Self::HALF],
}

impl Constants {
    const HALF: usize = 2;
}

#[pipeline]
struct Parameters<const DOWNS: usize, const UPS: usize> {
    #[repeat]
    #[stash(level[..], before[..] = input)]
    downs: [Split; DOWNS],
    #[repeat]
    #[pop(level[..])]
    ups: [Concat; UPS],
    #[repeat]
    #[pop(before[..])]
    others: [Concat; 3],
}

fn main() {
    let _ = |model: Net<4>| -> Option<(Tensor, Mean)> { model.unpipelined().forward(Tensor).ok() };
    let _ = |model: Parameters<3, 3>| -> Option<Tensor> { model.unpipelined().forward(Tensor).ok() };
}
