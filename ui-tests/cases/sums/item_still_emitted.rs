//! The struct and its generated items exist even if such a mistake is reported.

use pipe_runtime::nn::{Linear, Split};
use pipe_runtime::{Mean, Tensor, pipeline};

#[pipeline(sum(balance: Mean, lost: Mean))]
struct Model {
    #[device("cuda:0")]
    #[sum(balance)]
    encode: Split,
    #[device("cuda:1")]
    #[sum(missing)]
    decode: Linear,
}

impl Model {
    fn new(vars: &ModelVars) -> Self {
        let _ = vars.decode();
        Self { encode: Split, decode: Linear }
    }
}

fn run() -> Option<(Tensor, Mean, Mean)> {
    let vars = Model::vars(&Model::devices()).ok()?;
    let model = Model::new(&vars);
    let _ = (Model::PLAN.name, Model::STAGES, vars.encode());
    let output = model.unpipelined().forward(Tensor).ok()?;
    model.pipe(&vars).build().ok();
    Some(output)
}

fn main() {
    run();
}
