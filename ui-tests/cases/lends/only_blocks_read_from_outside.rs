//! Only a block is a part of a model that can lend it a value.

use pipe_runtime::nn::{Concat, Linear};
use pipe_runtime::{Tensor, pipeline};

#[pipeline(read(memory: Tensor))]
struct Model {
    #[device("cpu")]
    one: Linear,
    #[device("cpu")]
    #[read(memory)]
    two: Concat,
}

fn main() {}
