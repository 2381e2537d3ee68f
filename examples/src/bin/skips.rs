//! Trains a small U-Net, whose skips go straight from the stage that stashes to the stage that
//! pops.
//!
//! `cargo run -p pipe-examples --bin skips`

use pipe_runtime::nn::Concat;
use pipe_runtime::{Devices, pipeline};
use tch::nn::{self, OptimizerConfig};
use tch::{Device, Kind, Tensor};

/// A struct without devices is a block, which nests as one layer.
#[pipeline]
pub struct Block {
    conv: nn::Conv2D, // every tch Module / ModuleT is a layer
    norm: nn::GroupNorm,
    finish: nn::Func<'static>,
}

/// A small U-Net over two devices.
#[pipeline(chunks = 8, checkpoint = except_last)]
pub struct UNet {
    #[device("cuda:0")]
    #[stash(level1 = output)] // what the layer returns is kept for a later layer
    encode1: Block,
    #[stash(level2 = output)]
    encode2: Block,
    bottleneck: Block,

    #[device("cuda:1")] // opens the next stage; unannotated layers stay with the one above
    #[pop(level2)] // takes (input, level2): goes straight from cuda:0 to cuda:1
    concat2: Concat,
    decode2: Block,
    #[pop(level1)]
    concat1: Concat,
    decode1: Block,
    head: nn::Conv2D,
}

impl Block {
    fn new(vars: BlockVars<'_>, inputs: i64, outputs: i64, finish: fn(&Tensor) -> Tensor) -> Self {
        let padded = nn::ConvConfig { padding: 1, ..Default::default() };
        Self {
            conv: nn::conv2d(vars.conv(), inputs, outputs, 3, padded),
            norm: nn::group_norm(vars.norm(), 2, outputs, Default::default()),
            finish: nn::func(finish),
        }
    }
}

impl UNet {
    fn new(vars: &UNetVars) -> Self {
        let block = |path, inputs, outputs, finish: fn(&Tensor) -> Tensor| {
            Block::new(Block::vars_at(path), inputs, outputs, finish)
        };
        let double = |x: &Tensor| x.relu().upsample_nearest2d_vec(None::<&[i64]>, [2., 2.]);
        Self {
            encode1: block(vars.encode1(), 1, 8, Tensor::relu),
            encode2: block(vars.encode2(), 8, 16, |x| x.relu().max_pool2d_default(2)),
            bottleneck: block(vars.bottleneck(), 16, 16, Tensor::relu),
            concat2: Concat::default(),
            decode2: block(vars.decode2(), 32, 8, double),
            concat1: Concat::default(),
            decode1: block(vars.decode1(), 16, 8, Tensor::relu),
            head: nn::conv2d(vars.head(), 8, 1, 1, Default::default()),
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tch::manual_seed(1);
    println!("{}", UNet::PLAN); // a table of stages, layers and skips

    let devices = Devices::cpu(UNet::STAGES); // needs no GPU, unlike `UNet::devices()`
    let vars = UNet::vars(&devices)?;
    let mut optimizer = nn::Adam::default().build(vars.var_store(), 1e-3)?;
    // The builder's settings override the annotated ones.
    let mut pipe = UNet::new(&vars).pipe(&vars).chunks(4).build()?;

    let images = Tensor::rand([8, 1, 16, 16], (Kind::Float, Device::Cpu));
    let masks = images.gt(0.5).to_kind(Kind::Float);
    for step in 0..3 {
        let logits = pipe.forward(&images)?; // an ordinary tensor that records autograd
        let mean = tch::Reduction::Mean;
        let loss = logits.binary_cross_entropy_with_logits::<Tensor>(&masks, None, None, mean);
        optimizer.backward_step(&loss); // runs the pipelined backward
        println!("step {step}: loss {:.4}", f64::try_from(loss)?);
    }

    let _model: UNet = pipe.into_inner(); // returns the whole model
    Ok(())
}
