//! Stages on annotated devices, and on other devices that are chosen at run time.
//!
//! `cargo run -p pipe-examples --bin devices`, or with a device for each stage:
//! `cargo run -p pipe-examples --bin devices cuda:0,cuda:1,cuda:1`

use pipe_runtime::{Devices, pipeline};
use tch::nn::{self, OptimizerConfig};
use tch::{Kind, Tensor};

/// A struct without devices is a block, which nests as one layer of another model.
#[pipeline]
struct Block {
    linear: nn::Linear,
    relu: nn::Func<'static>,
}

#[pipeline(chunks = 4)]
struct Net {
    #[device("cuda:0")]
    embed: nn::Linear,
    #[devices("cuda:0" = 2, "cuda:1" = 4)] // the first two join the stage above
    blocks: [Block; 6],
    #[stage] // a new stage on the same device
    head: nn::Linear,
}

impl Net {
    fn new(vars: &NetVars) -> Self {
        let block = |path| {
            let linear = nn::linear(Block::vars_at(path).linear(), 32, 32, Default::default());
            Block { linear, relu: nn::func(Tensor::relu) }
        };
        Self {
            embed: nn::linear(vars.embed(), 8, 32, Default::default()),
            blocks: vars.blocks().map(block), // an array of paths
            head: nn::linear(vars.head(), 32, 1, Default::default()),
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tch::manual_seed(1);
    println!("{}", Net::PLAN);

    let devices: Devices = match std::env::args().nth(1) {
        Some(list) => list.parse()?,
        None => Devices::cpu(Net::STAGES), // `Net::devices()` has the annotated ones
    };
    println!("this machine has {}; the stages are on {devices}", Devices::here());

    let vars = Net::vars(&devices)?;
    let mut pipe = Net::new(&vars).pipe(&vars).build()?;
    let mut optimizer = nn::Adam::default().build(vars.var_store(), 1e-3)?;

    // Inputs must be on the first stage's device, and targets on the last stage's device.
    let (first, last) = (vars.devices()[0], vars.devices()[Net::STAGES - 1]);
    let x = Tensor::rand([32, 8], (Kind::Float, first));
    let y = x.sum_dim_intlist(1, true, Kind::Float).to_device(last);
    let loss = |output: &Tensor, y: &Tensor| output.mse_loss(y, tch::Reduction::Mean);
    for step in 0..3 {
        let report = pipe.train_step(&x, &y, loss)?;
        optimizer.step();
        optimizer.zero_grad();
        println!("step {step}: loss {:.3}", f64::try_from(report.loss)?);
    }
    Ok(())
}
