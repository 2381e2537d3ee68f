//! Records when each part of a training step runs, and prints which settings would be faster.
//!
//! `cargo run -p pipe-examples --bin trace`, or with a folder for the pictures:
//! `cargo run -p pipe-examples --bin trace pictures`

use std::path::PathBuf;

use pipe_runtime::{Devices, pipeline};
use tch::nn::{self, Linear};
use tch::{Device, Kind, Tensor};

#[pipeline(chunks = 8, schedule = "1f1b", checkpoint = never)]
struct Net {
    #[device("cpu")]
    one: Linear,
    #[device("cpu")]
    two: Linear,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let vars = Net::vars(&Devices::cpu(Net::STAGES))?;
    let net = Net {
        one: nn::linear(vars.one(), 512, 512, Default::default()),
        two: nn::linear(vars.two(), 512, 512, Default::default()),
    };
    let mut pipe = net.pipe(&vars).build()?;
    let x = Tensor::rand([512, 512], (Kind::Float, Device::Cpu));
    let loss = |output: &Tensor, y: &Tensor| output.mse_loss(y, tch::Reduction::Mean);

    for _ in 0..3 {
        pipe.train_step(&x, &x, loss)?; // libtorch initializes itself in the first steps
    }
    pipe.start_trace();
    for _ in 0..10 {
        pipe.train_step(&x, &x, loss)?;
    }
    let trace = pipe.stop_trace()?;

    println!("{trace}");
    println!("{}", pipe.advise(&trace.costs(), Some(64 << 20))?); // within 64 MiB per device
    if let Some(folder) = std::env::args().nth(1).map(PathBuf::from) {
        std::fs::write(folder.join("step.svg"), trace.to_svg())?; // one step and its simulation
        std::fs::write(folder.join("steps.pipe-trace.json"), trace.to_chrome())?; // all steps
    }
    Ok(())
}
