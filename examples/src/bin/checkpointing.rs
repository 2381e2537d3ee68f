//! The same training step in the three checkpoint modes.
//!
//! `cargo run -p pipe-examples --bin checkpointing`

use std::sync::atomic::{AtomicUsize, Ordering};

use pipe_runtime::{Checkpoint, Context, Devices, Layer, pipeline};
use tch::nn::{self, Linear};
use tch::{Device, Kind, Tensor};

static RECOMPUTED: AtomicUsize = AtomicUsize::new(0);

/// A layer with large hidden activations, which autograd saves. It counts its recomputations.
struct Wide {
    up: Linear,
    down: Linear,
}

impl Layer<Tensor> for Wide {
    type Out = Tensor;

    fn run(&self, x: Tensor, cx: &Context) -> Tensor {
        if cx.is_recomputing() {
            RECOMPUTED.fetch_add(1, Ordering::Relaxed);
        }
        x.apply(&self.up).gelu("none").dropout(0.1, cx.is_training()).apply(&self.down)
    }
}

#[pipeline(chunks = 4)]
struct Net {
    #[device("cpu")]
    first: Wide,
    #[device("cpu")]
    last: Wide,
}

impl Net {
    fn new(vars: &NetVars) -> Self {
        let wide = |path: nn::Path<'_>| Wide {
            up: nn::linear(&path / "up", 16, 256, Default::default()),
            down: nn::linear(&path / "down", 256, 16, Default::default()),
        };
        Self { first: wide(vars.first()), last: wide(vars.last()) }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tch::set_num_threads(1); // with more, libtorch may sum in another order
    let mut first_gradient = None;
    for mode in [Checkpoint::Never, Checkpoint::ExceptLast, Checkpoint::Always] {
        tch::manual_seed(1);
        let vars = Net::vars(&Devices::cpu(Net::STAGES))?;
        let mut pipe = Net::new(&vars).pipe(&vars).checkpoint(mode).build()?;
        let x = Tensor::rand([64, 16], (Kind::Float, Device::Cpu));

        RECOMPUTED.store(0, Ordering::Relaxed);
        let loss = pipe.forward(&x)?.square().mean(Kind::Float);
        loss.backward();
        let again = RECOMPUTED.load(Ordering::Relaxed);

        let gradient = vars.var_store().variables()["first.up.weight"].grad();
        let equal = first_gradient.get_or_insert_with(|| gradient.copy()).equal(&gradient);
        println!("{mode}: {again} of 8 forwards run again, the same gradient bit by bit: {equal}");
    }

    // Measures the memory that a micro-batch holds in the second stage until its backward.
    let vars = Net::vars(&Devices::cpu(Net::STAGES))?;
    let mut pipe = Net::new(&vars).pipe(&vars).build()?;
    let x = Tensor::rand([64, 16], (Kind::Float, Device::Cpu));
    pipe.start_trace();
    pipe.forward(&x)?.square().mean(Kind::Float).backward();
    let stage = pipe.stop_trace()?.costs().stages[1];
    println!("without checkpointing: {} bytes", stage.activation);
    println!("with checkpointing: {} bytes", stage.checkpoint);
    Ok(())
}
