//! The struct and its generated items exist even if such a mistake is reported.

use pipe_runtime::nn::Linear;
use pipe_runtime::{Tensor, pipeline};

#[pipeline]
struct Model {
    #[device("cuda:0")]
    #[lend(lost = output)]
    encode: Linear,
    #[device("cuda:1")]
    #[read(missing)]
    decode: Linear,
}

impl Model {
    fn new(vars: &ModelVars) -> Self {
        let _ = vars.decode();
        Self { encode: Linear, decode: Linear }
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
