//! A model with devices does not nest in another one, not even repeated or behind an alias.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Inner {
    #[device("cuda:0")]
    first: Linear,
    #[device("cuda:1")]
    last: Linear,
}

type Alias = Inner;

#[pipeline]
struct Model {
    #[device("cuda:0")]
    encode: Linear,
    inner: Inner,
    #[device("cuda:1")]
    #[repeat]
    more: [Alias; 2],
}

fn main() {}
