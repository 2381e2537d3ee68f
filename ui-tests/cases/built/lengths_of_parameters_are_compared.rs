//! Lengths that are const parameters are compared where these get values.

use pipe_runtime::nn::{Concat, Split};
use pipe_runtime::{Tensor, pipeline};

#[pipeline]
struct Model<const DOWNS: usize, const UPS: usize> {
    #[device("cpu")]
    #[repeat]
    #[stash(level[..])]
    downs: [Split; DOWNS],
    #[device("cpu")]
    #[repeat]
    #[pop(level[..])]
    ups: [Concat; UPS],
}

fn main() {
    let model = Model { downs: [const { Split }; 4], ups: [const { Concat }; 3] };
    let _ = model.unpipelined().forward(Tensor);
}
