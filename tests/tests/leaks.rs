//! Dropping a pipeline frees its memory. The test needs a separate process, whose memory it
//! measures.

use std::sync::{Mutex, PoisonError};

use pipe_runtime::optim::AdamW;
use pipe_runtime::{Context, Devices, Layer, Trainer, pipeline};
use pipe_tests::torture::{assert_no_more, resources};
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

/// The memory of the process is that of one test at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

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
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let rows = Tensor::rand([4, WIDTH], (Kind::Float, Device::Cpu));
    (0..5).for_each(|_| live_and_die(&rows));
    let before = resident_bytes();
    (0..60).for_each(|_| live_and_die(&rows));
    let grown = resident_bytes().saturating_sub(before);
    // The weights of sixty pipelines have 500 MB, and so do their gradients.
    assert!(grown < 100 << 20, "{} MB are left", grown >> 20);
}

/// Panics without a message, which the test's output would keep.
fn fail() -> ! {
    std::panic::resume_unwind(Box::new("on purpose"))
}

/// A layer that fails on an empty micro-batch.
struct Picky(Linear);

impl Layer<Tensor> for Picky {
    type Out = Tensor;

    fn run(&self, x: Tensor, _cx: &Context) -> Tensor {
        if x.size()[0] == 0 {
            fail();
        }
        x.apply(&self.0).relu()
    }
}

#[pipeline(chunks = 3, schedule = "1f1b")]
struct Small {
    #[device("cpu")]
    first: Linear,
    #[device("cpu")]
    picky: Picky,
    last: Linear,
}

/// Builds a training, trains, fails in a layer and in the loss, and drops everything.
fn fail_and_die(rows: &Tensor, none: &Tensor) {
    let vars = Small::vars(&Devices::cpu(2)).unwrap();
    let linear = |path| nn::linear(path, 8, 8, Default::default());
    let net = Small { first: linear(vars.first()), picky: Picky(linear(vars.picky())), last: linear(vars.last()) };
    let pipe = net.pipe(&vars).build().unwrap();
    let optimizer = pipe.optimizer(AdamW::default()).clip_norm(1.).build().unwrap();
    let mut training = Trainer::new(pipe, optimizer).unwrap();
    training.step(rows, rows, loss).unwrap();
    training.step(none, none, loss).unwrap_err();
    training.step(rows, rows, |_: &Tensor, _: &Tensor| fail()).unwrap_err();
    training.step(rows, rows, loss).unwrap();
}

#[test]
#[cfg(target_os = "linux")]
fn a_thousand_trainings_that_fail_leave_nothing_behind() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let rows = |count: i64| Tensor::rand([count, 8], (Kind::Float, Device::Cpu));
    let (rows, none) = (rows(6), rows(0));
    // What a few hundred ended threads have made is remembered.
    (0..400).for_each(|_| fail_and_die(&rows, &none));
    let resources_before = resources();
    // The allocator takes some megabytes from the system now and then. A leak grows every time.
    let mut grown: Vec<i64> = (0..5)
        .map(|_| {
            let before = resident_bytes();
            (0..200).for_each(|_| fail_and_die(&rows, &none));
            resident_bytes() as i64 - before as i64
        })
        .collect();
    assert_no_more(resources_before, &"after a thousand trainings");
    println!("{grown:?} bytes more after each two hundred trainings");
    grown.sort_unstable();
    assert!(grown[2] < 200 * 256, "{grown:?} bytes are left by each two hundred trainings");
}
