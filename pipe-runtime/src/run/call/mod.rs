//! One call of a pipeline: its forward, and the backward that uses what the forward kept.

mod accelerators;
mod backward;
mod forward;
mod node;
mod offload;
mod passes;
mod peak_counter;
mod receive;
mod statistics;
mod traced;
mod train;

pub(crate) use accelerators::loss_is_not_finite;
pub(crate) use forward::{Begun, Call, Given};
pub(crate) use node::attach_node;
pub(crate) use train::{LOSS, Loss, TrainRun, Trained};

use std::sync::{Mutex, MutexGuard};

use crate::error::{Failure, Phase};
use crate::lock::lock;
use crate::model::Context;
use crate::quiet::Quiet;
use crate::torch::{caught, without_stack};

/// A table with one cell per (row, micro-batch). The rows are ports or stages.
struct Table<T> {
    cells: Vec<Mutex<T>>,
    micro_batches: usize,
}

impl<T: Default> Table<T> {
    fn new(rows: usize, micro_batches: usize) -> Self {
        let cells = std::iter::repeat_with(Mutex::default).take(rows * micro_batches).collect();
        Self { cells, micro_batches }
    }

    fn at(&self, row: usize, micro_batch: usize) -> MutexGuard<'_, T> {
        lock(&self.cells[row * self.micro_batches + micro_batch])
    }

    fn take(&self, row: usize, micro_batch: usize) -> T {
        std::mem::take(&mut *self.at(row, micro_batch))
    }
}

/// Runs one step. Panics and errors become a [`Failure`] with its place.
fn step<T>(phase: Phase, cx: &Context, body: impl FnOnce() -> Result<T, String>) -> Result<T, Failure> {
    let _quiet = Quiet::enter();
    let cause = match caught(body) {
        Ok(Ok(done)) => return Ok(done),
        Ok(Err(cause)) => without_stack(&cause),
        Err(message) => message,
    };
    Err(Failure { phase, stage: cx.stage(), layer: cx.path(), micro_batch: cx.micro_batch(), cause })
}
