//! A plain field has no attributes of layers.

use pipe_runtime::nn::Concat;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[not_a_layer]
    #[stash(a = output)]
    config: u8,
    #[pop(a)]
    encode: Concat,
    #[layer(name = "other")]
    #[not_a_layer]
    more: u8,
}

fn main() {}
