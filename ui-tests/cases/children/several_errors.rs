//! All mistakes in the names and owners of layers are reported, in source order.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[device("cuda:0")]
    #[layer(name = "a.b")]
    one: Linear,
    #[layer(name = "")]
    two: Linear,
    save: Linear,
    #[device("cuda:1")]
    #[layer(name = "save")]
    four: Linear,
    five: std::rc::Rc<Linear>,
    six: &'static Linear,
    #[layer(name = "six")]
    seven: Linear,
}

fn main() {}
