use std::marker::PhantomData;
use std::ptr::NonNull;

use tch::Tensor;

use super::{Sums, TorchError, ffi};

/// What holds the memory of a tensor while a pipeline runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// The graph of a micro-batch, or the operator that runs in a forward.
    Saved,
    /// A stage, which recomputes from this input.
    Input,
    /// Nobody yet: it was sent to a stage that has not used it.
    UnderWay,
    /// The sums of the parameters' gradients.
    Gradient,
    /// The backward that runs.
    Working,
}

/// The bytes that each [`Holder`] holds.
pub(crate) type ByHolder = [i64; 5];

pub(crate) use ffi::Metering;

/// Counts the memory of the CPU tensors that the stages of a pipeline make while it runs.
#[derive(Debug)]
pub(crate) struct Meter(NonNull<ffi::MeterHandle>);

// SAFETY: a lock guards the counts.
unsafe impl Send for Meter {}
// SAFETY: as above.
unsafe impl Sync for Meter {}

impl Meter {
    /// Takes the rank of each stage.
    pub(crate) fn new(rank_of: &[usize]) -> Result<Self, TorchError> {
        // SAFETY: reads that many numbers, and writes a new meter.
        ffi::owned(|meter| unsafe { ffi::pipe_meter_new(rank_of.as_ptr(), rank_of.len(), meter) }).map(Self)
    }

    /// Counts what this thread allocates for the stage and the holder, until the guard is dropped.
    pub(crate) fn enter(&self, stage: usize, holder: Holder) -> Result<MeteredStep, TorchError> {
        // SAFETY: the handle is alive, and the guard keeps what it refers to alive.
        let step = ffi::owned(|step| unsafe { ffi::pipe_meter_enter(self.0.as_ptr(), stage, holder as usize, step) })?;
        Ok(MeteredStep(step, PhantomData))
    }

    /// The tensor, to which there are so many handles, is under way to the stage, which holds its
    /// memory from now on. If there are others, a graph has saved it, and holds it still.
    pub(crate) fn send(&self, tensor: &Tensor, stage: usize, handles: usize) -> Result<(), TorchError> {
        // SAFETY: both handles are alive.
        ffi::check(unsafe { ffi::pipe_meter_send(self.0.as_ptr(), tensor.as_ptr(), stage, handles) })
    }

    /// The stage and the holder hold the tensor from now on, if it was under way.
    pub(crate) fn receive(&self, tensor: &Tensor, stage: usize, holder: Holder) -> Result<(), TorchError> {
        // SAFETY: both handles are alive.
        ffi::check(unsafe { ffi::pipe_meter_receive(self.0.as_ptr(), tensor.as_ptr(), stage, holder as usize) })
    }

    /// The bytes that the tensor takes, if it is under way and held for that alone.
    pub(crate) fn under_way(&self, tensor: &Tensor) -> u64 {
        // SAFETY: both handles are alive.
        unsafe { ffi::pipe_meter_under_way(self.0.as_ptr(), tensor.as_ptr()) }.unsigned_abs()
    }

    /// The sums are gradients of the stage from now on.
    pub(crate) fn hold_sums(&self, sums: &Sums, stage: usize) -> Result<(), TorchError> {
        // SAFETY: both handles are alive.
        ffi::check(unsafe { ffi::pipe_meter_hold_sums(self.0.as_ptr(), sums.as_ptr(), stage) })
    }

    /// What the stage's rank holds, and what the stage held when the rank held most.
    pub(crate) fn read(&self, stage: usize) -> Result<Metering, TorchError> {
        let mut found = Metering::default();
        // SAFETY: the handle is alive; this writes the bytes.
        ffi::check(unsafe { ffi::pipe_meter_read(self.0.as_ptr(), stage, &mut found) })?;
        Ok(found)
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        // SAFETY: made by `pipe_meter_new`, freed once.
        unsafe { ffi::pipe_meter_free(self.0.as_ptr()) }
    }
}

/// A step of a rank whose allocations on this thread are counted.
#[derive(Debug)]
pub(crate) struct MeteredStep(NonNull<ffi::MeteredStep>, PhantomData<*const ()>);

impl Drop for MeteredStep {
    fn drop(&mut self) {
        // SAFETY: made by `pipe_meter_enter` on this thread, freed once.
        unsafe { ffi::pipe_meter_leave(self.0.as_ptr()) }
    }
}
