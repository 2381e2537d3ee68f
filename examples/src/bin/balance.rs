//! Measures the layers of a model, and prints which layers belong in which stage.
//!
//! `cargo run -p pipe-examples --bin balance`, or with a file for the result:
//! `cargo run -p pipe-examples --bin balance balance.toml`

use pipe_runtime::balance::Balance;
use pipe_runtime::pipeline;
use tch::nn::{self, Linear, VarStore};
use tch::{Device, Kind, Tensor};

/// A model without devices yet. The measurement will divide it into stages.
#[pipeline]
struct Net {
    narrow: Linear,
    wide: Linear,
    #[repeat]
    middle: [Linear; 5],
    head: Linear,
}

impl Net {
    fn new(vars: NetVars<'_>) -> Self {
        Self {
            narrow: nn::linear(vars.narrow(), 64, 64, Default::default()),
            wide: nn::linear(vars.wide(), 64, 1024, Default::default()),
            middle: vars.middle().map(|path| nn::linear(path, 1024, 1024, Default::default())),
            head: nn::linear(vars.head(), 1024, 10, Default::default()),
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let store = VarStore::new(Device::Cpu);
    let net = Net::new(Net::vars_at(store.root()));
    let sample = Tensor::rand([64, 64], (Kind::Float, Device::Cpu));
    // A stage on the CPU gets a share of the threads, so the layers are measured with one thread.
    let balance = Balance::of_block(&net, &store, &store.root()).intra_op_threads(1);
    let profile = balance.stages(3).chunks(4).by_time(&sample)?;
    println!("{profile}");
    if let Some(file) = std::env::args().nth(1) {
        profile.write(file)?;
    }
    Ok(())
}
