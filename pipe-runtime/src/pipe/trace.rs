//! Traces of a pipeline: when each step of its runs ran, and what it cost.

use pipe_schedule::Trace;

use super::handle::Pipe;
use crate::error::{Error, Result};
use crate::stages::Pipeline;

impl<M: Pipeline> Pipe<M> {
    /// Starts to record when each step of the schedule runs, until
    /// [`stop_trace`](Self::stop_trace). Run a few training steps before, so that libtorch has set
    /// itself up, and several in between, because medians are taken over them. A trace that is
    /// already running is dropped.
    ///
    /// Recording takes a few hundred nanoseconds per step. One step of each stage takes longer,
    /// because its memory is measured. On accelerators, each step is waited for, so that its time
    /// is the device's and not that of launching it. A pipeline that is not traced pays nothing.
    pub fn start_trace(&mut self) {
        self.built().recorder.start(self.built().stages.len(), self.built().routes.len());
    }

    /// Stops recording and returns what has run since its start: training steps, and the forwards
    /// and backwards of ordinary calls as separate runs. Runs that failed are left out.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Setting`] if no trace was started, or if nothing has run since.
    pub fn stop_trace(&mut self) -> Result<Trace> {
        let recording = self.built().recorder.stop();
        let recording =
            recording.ok_or_else(|| Error::Setting("there is no trace to stop: call `start_trace` first".into()))?;
        recording.finish(&self.built().routes, &self.core.parameter_bytes)
    }
}
