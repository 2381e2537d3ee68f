//! Measures the layers of a model, and says which of them belong into which stage.
//!
//! `cargo run -p pipe-examples --bin balance`, or with a file for the result:
//! `cargo run -p pipe-examples --bin balance balance.toml`

use pipe_runtime::balance::Balance;
use pipe_runtime::pipeline;
use tch::nn::{self, Linear, VarStore};
use tch::{Device, Kind, Tensor};

/// No devices yet: they are what the measurement is for.
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
    // A stage on the CPU has its share of the threads, so measure with that.
    let balance = Balance::of_block(&net, &store, &store.root()).intra_op_threads(1);
    let profile = balance.stages(3).chunks(4).by_time(&sample)?;
    println!("{profile}");
    if let Some(file) = std::env::args().nth(1) {
        profile.write(file)?;
    }
    Ok(())
}
