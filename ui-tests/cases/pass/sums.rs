//! What layers add up: by arrays and blocks, within a stage and across stages, recomputed, beside
//! skips and lent values.

use pipe_runtime::nn::{Concat, Linear, Split};
use pipe_runtime::{Context, Layer, Mean, Sum, Tensor, pipeline};

/// Takes its input and a mask, and adds to two sums.
struct Expert;

impl Layer<(Tensor, Tensor)> for Expert {
    type Out = (Tensor, Tensor, Tensor);
    fn run(&self, _: (Tensor, Tensor), _: &Context) -> (Tensor, Tensor, Tensor) {
        unreachable!()
    }
}

/// Returns its output, a skip and what it adds.
struct Both;

impl Layer<Tensor> for Both {
    type Out = (Tensor, Tensor, Tensor);
    fn run(&self, _: Tensor, _: &Context) -> (Tensor, Tensor, Tensor) {
        unreachable!()
    }
}

#[pipeline(sum(balance: Tensor))]
struct Block<L: Layer<Tensor, Out = (Tensor, Tensor)>> {
    #[sum(balance)]
    one: L,
    two: Linear,
    #[repeat]
    #[sum(balance)]
    rest: Vec<L>,
}

#[pipeline(sum(balance: Mean, used: Sum), chunks = 4)]
struct Model<const N: usize> {
    #[device("cpu")]
    #[lend(mask = output)]
    first: Linear,
    #[devices("cpu", "cpu")]
    #[recompute]
    #[read(mask)]
    #[sum(used, balance)]
    experts: [Expert; N],
    #[recompute]
    #[sum(balance)]
    block: Block<Split>,
    #[devices("cpu", "cpu")]
    #[recompute(1)]
    between: [Linear; 4],
    #[sum(used)]
    #[stash(skip)]
    both: Both,
    #[pop(skip)]
    join: Concat,
}

/// The sum begins with the first layer and arrives with the last one.
#[pipeline(sum(balance: Mean), output = Tensor)]
struct Alone {
    #[devices("cpu", "cpu")]
    #[sum(balance)]
    layers: [Split; 4],
}

fn main() {
    let _ = |model: Model<4>| -> Option<(Tensor, Mean, Sum)> { model.unpipelined().forward(Tensor).ok() };
    let _ = |model: Alone| -> Option<(Tensor, Mean)> { model.unpipelined().forward(Tensor).ok() };
}
