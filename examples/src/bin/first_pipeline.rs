//! Trains a model of two stages to find the points outside a circle.
//!
//! `cargo run -p pipe-examples --bin first_pipeline`

use pipe_runtime::{Devices, pipeline};
use tch::nn::{self, OptimizerConfig};
use tch::{Device, Kind, Tensor};

/// Each field is a layer. `#[device]` opens a stage, which continues until the next `#[device]`.
#[pipeline(chunks = 4)]
struct Net {
    #[device("cpu")]
    widen: nn::Linear,
    relu: nn::Func<'static>,
    #[device("cpu")]
    classify: nn::Linear,
}

impl Net {
    /// Creates the layers. `vars` has a method for each, which returns the path of its variables.
    fn new(vars: &NetVars) -> Self {
        Self {
            widen: nn::linear(vars.widen(), 2, 32, Default::default()),
            relu: nn::func(Tensor::relu),
            classify: nn::linear(vars.classify(), 32, 2, Default::default()),
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tch::manual_seed(1);
    println!("{}", Net::PLAN);

    let vars = Net::vars(&Devices::cpu(Net::STAGES))?;
    let mut pipe = Net::new(&vars).pipe(&vars).build()?;
    let mut optimizer = nn::Adam::default().build(vars.var_store(), 1e-2)?;

    let points = Tensor::randn([64, 2], (Kind::Float, Device::Cpu));
    let squares = points.square().sum_dim_intlist(1, false, Kind::Float);
    let outside = squares.gt(1.).to_kind(Kind::Int64);
    for step in 0..=100 {
        let logits = pipe.forward(&points)?;
        let loss = logits.cross_entropy_for_logits(&outside);
        optimizer.backward_step(&loss);
        if step % 25 == 0 {
            println!("step {step}: loss {:.3}", f64::try_from(loss)?);
        }
    }

    let logits = pipe.predict(&points)?;
    println!("accuracy {:.2}", f64::try_from(logits.accuracy_for_logits(&outside))?);
    Ok(())
}
