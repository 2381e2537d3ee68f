//! A struct with such a mistake is still emitted, with everything that is generated for it.

use pipe_runtime::nn::Linear;
use pipe_runtime::{Tensor, pipeline};

#[pipeline]
struct Model {
    #[device("cuda:0")]
    encode: Linear,
    #[device(cuda)]
    #[stash(=)]
    decode: Linear,
    blocks: [Linear; 2],
    #[not_a_layer(1)]
    name: String,
}

impl Model {
    fn new(vars: &ModelVars) -> Self {
        let _ = (vars.decode(), vars.blocks());
        Self { encode: Linear, decode: Linear, blocks: [Linear, Linear], name: String::new() }
    }
}

fn run() -> Option<Tensor> {
    let vars = Model::vars(&Model::devices()).ok()?;
    let model = Model::new(&vars);
    let _ = (Model::PLAN.name, Model::STAGES, vars.encode());
    model.unpipelined().forward(Tensor).ok()?;
    model.pipe(&vars).build().ok();
    Some(Tensor)
}

fn main() {
    run();
}
