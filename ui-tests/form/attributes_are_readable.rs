//! An attribute that cannot be read is reported with the way to write it.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[device(cpu)]
    one: Linear,
    #[device]
    two: Linear,
    #[devices()]
    three: [Linear; 2],
    #[stash(a = both)]
    four: Linear,
    #[pop("a")]
    five: Linear,
    #[stage(2)]
    six: Linear,
    #[layer(child = "seven")]
    seven: Linear,
    #[not_a_layer = true]
    eight: Linear,
}

fn main() {}
