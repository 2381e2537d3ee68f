//! Dropping a pipeline frees its memory. The test needs a separate process, whose memory it
//! measures.

use pipe_runtime::{Devices, pipeline};
use tch::nn::{self, Linear};
use tch::{Device, Kind, Tensor};

/// A model with a weight of 4 MB in each stage.
#[pipeline(chunks = 2)]
struct Net {
    #[device("cpu")]
    first: Linear,
    #[device("cpu")]
    last: Linear,
}

const WIDTH: i64 = 1024;

fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

fn loss(y: &Tensor, target: &Tensor) -> Tensor {
    y.mse_loss(target, tch::Reduction::Mean)
}

/// Builds a pipeline, trains by `train_step` and by `forward`, also with a graph that outlives the
/// pipeline, and drops everything.
fn live_and_die(rows: &Tensor) {
    let vars = Net::vars(&Devices::cpu(2)).unwrap();
    let linear = |path| nn::linear(path, WIDTH, WIDTH, Default::default());
    let net = Net { first: linear(vars.first()), last: linear(vars.last()) };
    let mut pipe = net.pipe(&vars).build().unwrap();
    pipe.train_step(rows, rows, loss).unwrap();
    let (walked, never) = (pipe.forward(rows).unwrap(), pipe.forward(rows).unwrap());
    drop(pipe);
    walked.sum(Kind::Float).backward();
    drop(never);
}

/// Nodes, leaves and parameters hold pointers to each other, some of them weak, in a way that
/// differs between versions of libtorch. A cycle among them would keep every weight.
#[test]
#[cfg(target_os = "linux")]
fn a_pipeline_that_has_trained_leaves_nothing_behind() {
    let rows = Tensor::rand([4, WIDTH], (Kind::Float, Device::Cpu));
    (0..5).for_each(|_| live_and_die(&rows));
    let before = resident_bytes();
    (0..60).for_each(|_| live_and_die(&rows));
    let grown = resident_bytes().saturating_sub(before);
    // The weights of sixty pipelines have 500 MB, and so do their gradients.
    assert!(grown < 100 << 20, "{} MB are left", grown >> 20);
}
