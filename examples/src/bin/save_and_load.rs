//! Trains a model, saves it, and loads it into a model with other stages.
//!
//! `cargo run -p pipe-examples --bin save_and_load`

use pipe_runtime::{Devices, pipeline};
use tch::nn::{self, Linear, OptimizerConfig};
use tch::{Device, Kind, Tensor};

/// The model in two stages, for training.
#[pipeline(chunks = 4)]
struct Training {
    #[device("cpu")]
    first: Linear,
    #[device("cpu")]
    last: Linear,
}

/// The same layers in one stage, for inference.
#[pipeline(allow(single_stage))]
struct Serving {
    #[device("cpu")]
    first: Linear,
    last: Linear,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tch::manual_seed(1);
    let x = Tensor::rand([32, 8], (Kind::Float, Device::Cpu));
    let y = x.sum_dim_intlist(1, true, Kind::Float);
    let name = format!("save_and_load-{}.safetensors", std::process::id());
    let file = std::env::temp_dir().join(name);

    let vars = Training::vars(&Devices::cpu(Training::STAGES))?;
    let net = Training {
        first: nn::linear(vars.first(), 8, 16, Default::default()),
        last: nn::linear(vars.last(), 16, 1, Default::default()),
    };
    let mut pipe = net.pipe(&vars).build()?;
    // Any optimizer of tch works, on the variables of all stages.
    let mut optimizer = nn::Adam { wd: 1e-4, ..Default::default() }.build(vars.var_store(), 1e-2)?;
    let loss = |output: &Tensor, y: &Tensor| output.mse_loss(y, tch::Reduction::Mean);
    for step in 0..20 {
        optimizer.set_lr(1e-2 * (1. - f64::from(step) / 20.));
        let report = pipe.train_step(&x, &y, loss)?;
        optimizer.clip_grad_norm(1.);
        optimizer.step();
        optimizer.zero_grad();
        if step % 5 == 0 {
            println!("step {step}: loss {:.3}", f64::try_from(report.loss)?);
        }
    }
    vars.save(&file)?;
    let trained = pipe.predict(&x)?;

    let vars = Serving::vars(&Devices::cpu(Serving::STAGES))?;
    let net = Serving {
        first: nn::linear(vars.first(), 8, 16, Default::default()),
        last: nn::linear(vars.last(), 16, 1, Default::default()),
    };
    vars.load(&file)?; // fails without changes if names, shapes or kinds do not fit
    let mut pipe = net.pipe(&vars).build()?;
    let served = pipe.predict(&x)?;
    let same = served.allclose(&trained, 1e-5, 1e-6, false);
    println!("the loaded model gives the same output: {same}");
    let mut names: Vec<_> = vars.var_store().variables().into_keys().collect();
    names.sort();
    println!("names in the file: {}", names.join(", "));
    std::fs::remove_file(&file)?;
    Ok(())
}
