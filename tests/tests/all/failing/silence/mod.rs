//! Mistakes that could go unnoticed. Each works as in plain tch, or gives an error that says what
//! to do.

mod finite;
mod graphs;
mod loss;
mod memory;
mod state;
mod views;

use std::cell::Cell;
use std::sync::{Arc, Mutex};

use pipe_runtime::nn::DeferredBatchNorm;
use pipe_runtime::{Carried, Checkpoint, Context, Devices, Layer, Mean, Pipe, Reduction, ScheduleKind, pipeline};
use pipe_tests::compare::{leaf, mse, rows};
use pipe_tests::layers::{dropout, func, linear};
use tch::nn::{self, BatchNorm, Func, FuncT, Linear};
use tch::{Kind, Tensor};

const MODES: [Checkpoint; 3] = [Checkpoint::Always, Checkpoint::ExceptLast, Checkpoint::Never];

#[pipeline(chunks = 4)]
struct Net {
    #[device("cpu")]
    first: Linear,
    middle: Func<'static>,
    #[device("cpu")]
    last: Linear,
}

fn net(middle: Func<'static>) -> (Net, NetVars) {
    tch::manual_seed(3);
    let vars = Net::vars(&Devices::cpu(2)).unwrap();
    (Net { first: linear(vars.first(), 8, 8), middle, last: linear(vars.last(), 8, 8) }, vars)
}

fn pipe(mode: Checkpoint) -> (Pipe<Net>, NetVars) {
    let (net, vars) = net(func(Tensor::tanh));
    (net.pipe(&vars).checkpoint(mode).intra_op_threads(1).build().unwrap(), vars)
}

/// Counts the variables that have a gradient.
fn trained(vars: &NetVars) -> usize {
    vars.var_store().trainable_variables().iter().filter(|variable| variable.grad().defined()).count()
}

#[pipeline(chunks = 2)]
struct SavesNothing {
    #[device("cpu")]
    first: Func<'static>,
    #[device("cpu")]
    last: Linear,
}

#[pipeline(chunks = 3)]
struct Normed {
    #[device("cpu")]
    norm: BatchNorm,
    #[device("cpu")]
    head: Linear,
    end: Func<'static>,
}
