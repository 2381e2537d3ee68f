use std::marker::PhantomData;
use std::ops::Range;
use std::ptr::NonNull;

use tch::Tensor;

use super::{TorchError, ffi};

pub(crate) use ffi::{Kept, Peaks, Read};

/// The sequence number of the next autograd node that this thread will make.
pub(crate) fn sequence_number() -> u64 {
    // SAFETY: reads a thread-local counter.
    unsafe { ffi::pipe_sequence_number() }
}

/// Waits until the device of `on` has done all its work. Does nothing on the CPU.
pub(crate) fn synchronize(on: &Tensor) -> Result<(), TorchError> {
    // SAFETY: the handle is alive.
    ffi::check(unsafe { ffi::pipe_synchronize(on.as_ptr()) })
}

/// Observes, while it exists, what this thread's operators allocate and read on one kind of device.
/// Not `Send`, because what it installs belongs to the thread.
#[derive(Debug)]
pub(crate) struct Observation {
    observation: NonNull<ffi::Observation>,
    _this_thread: PhantomData<*const ()>,
}

impl Observation {
    /// Starts an observation for the kind of device of `on`. At first, no layer is running.
    pub(crate) fn start(on: &Tensor) -> Result<Self, TorchError> {
        // SAFETY: the handle is alive; the result is a new observation.
        let observation = ffi::owned(|observation| unsafe { ffi::pipe_observation_start(on.as_ptr(), observation) })?;
        Ok(Self { observation, _this_thread: PhantomData })
    }

    /// Attributes what happens from now on to this layer, or to none.
    pub(crate) fn turn_to(&self, layer: Option<usize>) {
        // SAFETY: the observation is alive; this writes a number under its lock.
        unsafe { ffi::pipe_observation_layer(self.observation.as_ptr(), layer.map_or(-1, |layer| layer as i64)) }
    }

    /// Records that the running layer reads `tensor`.
    pub(crate) fn read(&self, tensor: &Tensor) -> Result<(), TorchError> {
        // SAFETY: both handles are alive.
        ffi::check(unsafe { ffi::pipe_observation_read(self.observation.as_ptr(), tensor.as_ptr()) })
    }

    /// What each of `layers` layers keeps.
    pub(crate) fn kept(&self, layers: usize) -> Result<Vec<Kept>, TorchError> {
        let mut kept = vec![Kept::default(); layers];
        // SAFETY: `kept` has an entry for each layer.
        ffi::check(unsafe { ffi::pipe_observation_kept(self.observation.as_ptr(), layers, kept.as_mut_ptr()) })?;
        Ok(kept)
    }

    /// The bytes in use of all that was allocated since the observation started.
    pub(crate) fn in_use(&self) -> i64 {
        // SAFETY: the observation is alive; this reads a number under its lock.
        unsafe { ffi::pipe_observation_in_use(self.observation.as_ptr()) }
    }

    /// The most memory that was in use while each of `layers` layers ran. The backward counts if a
    /// [`BackwardClock`] runs.
    pub(crate) fn peaks(&self, layers: usize) -> Result<Vec<Peaks>, TorchError> {
        let mut peaks = vec![Peaks::default(); layers];
        // SAFETY: `peaks` has an entry for each layer.
        ffi::check(unsafe { ffi::pipe_observation_peaks(self.observation.as_ptr(), layers, peaks.as_mut_ptr()) })?;
        Ok(peaks)
    }

    /// The reads of values that other layers made.
    pub(crate) fn reads(&self) -> Result<Vec<Read>, TorchError> {
        // SAFETY: the observation is alive.
        let count = unsafe { ffi::pipe_observation_read_count(self.observation.as_ptr()) };
        let mut reads = vec![Read::default(); count];
        // SAFETY: `reads` has as many entries as there are. Nothing was observed in between,
        // because the observation belongs to this thread.
        ffi::check(unsafe { ffi::pipe_observation_reads(self.observation.as_ptr(), reads.as_mut_ptr()) })?;
        Ok(reads)
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        // SAFETY: made by `pipe_observation_start` on this thread, freed once.
        unsafe { ffi::pipe_observation_free(self.observation.as_ptr()) }
    }
}

/// Measures, while it exists, how long this thread's backward works for each layer. Not `Send`, as
/// above.
#[derive(Debug)]
pub(crate) struct BackwardClock {
    clock: NonNull<ffi::BackwardClock>,
    layers: usize,
    _this_thread: PhantomData<*const ()>,
}

impl BackwardClock {
    /// Starts the clock. Layer `i` made the nodes with the sequence numbers `nodes[i]`, which are
    /// ascending.
    pub(crate) fn start(on: &Tensor, nodes: &[Range<u64>]) -> Result<Self, TorchError> {
        let firsts: Vec<_> = nodes.iter().map(|range| range.start).collect();
        let ends: Vec<_> = nodes.iter().map(|range| range.end).collect();
        // SAFETY: the handle is alive and both arrays have the length that is passed; the result is
        // a new clock.
        let clock = ffi::owned(|clock| unsafe {
            ffi::pipe_backward_clock_start(on.as_ptr(), firsts.as_ptr(), ends.as_ptr(), nodes.len(), clock)
        })?;
        Ok(Self { clock, layers: nodes.len(), _this_thread: PhantomData })
    }

    /// Returns the time of each layer in seconds, after the backward.
    pub(crate) fn stop(self) -> Result<Vec<f64>, TorchError> {
        let mut seconds = vec![0.; self.layers];
        // SAFETY: `seconds` has an entry for each layer.
        ffi::check(unsafe { ffi::pipe_backward_clock_read(self.clock.as_ptr(), seconds.as_mut_ptr()) })?;
        Ok(seconds)
    }
}

impl Drop for BackwardClock {
    fn drop(&mut self) {
        // SAFETY: made by `pipe_backward_clock_start` on this thread, freed once.
        unsafe { ffi::pipe_backward_clock_free(self.clock.as_ptr()) }
    }
}
