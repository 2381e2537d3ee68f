//! A type error in a layer leaves the struct and its generated items usable.

use pipe_runtime::nn::Linear;
use pipe_runtime::{Tensor, pipeline};

struct Config;

#[pipeline]
struct Model {
    #[device("cuda:0")]
    encode: Linear,
    #[device("cuda:1")]
    config: Config,
}

impl Model {
    fn new(vars: &ModelVars) -> Self {
        let _ = vars.config();
        Self { encode: Linear, config: Config }
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
