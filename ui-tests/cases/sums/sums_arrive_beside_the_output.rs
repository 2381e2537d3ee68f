//! What layers add up arrives beside the output, where the struct declares it.

use pipe_runtime::nn::{Linear, Split};
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[device("cpu")]
    one: Linear,
    #[device("cpu")]
    #[sum(balance)]
    two: Split,
}

fn main() {}
