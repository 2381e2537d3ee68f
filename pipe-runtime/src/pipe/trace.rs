//! Traces: when each step of a pipeline's runs ran, and what it took.

use pipe_schedule::Trace;

use super::handle::Pipe;
use crate::error::{Error, Result};
use crate::stages::Pipeline;

impl<M: Pipeline> Pipe<M> {
    /// From now on, records when each step of the schedule runs, until
    /// [`stop_trace`](Self::stop_trace). Run a few training steps before, so that libtorch has set
    /// itself up, and some in between: medians are taken over them.
    ///
    /// ```no_run
    /// # use pipe_runtime::{Pipe, Pipeline};
    /// # use tch::Tensor;
    /// # fn example<M: Pipeline<Input = Tensor, Output = Tensor>>(
    /// #     mut pipe: Pipe<M>, x: &Tensor, y: &Tensor,
    /// # ) -> pipe_runtime::Result<()> {
    /// let loss = |output: &Tensor, y: &Tensor| output.mse_loss(y, tch::Reduction::Mean);
    /// pipe.train_step(x, y, loss)?; // libtorch sets itself up
    /// pipe.start_trace();
    /// for _ in 0..10 {
    ///     pipe.train_step(x, y, loss)?;
    /// }
    /// let trace = pipe.stop_trace()?;
    /// println!("{trace}"); // a step as it ran, above the simulated one
    /// println!("{}", pipe.advise(&trace.costs(), Some(8 << 30))?); // in 8 GiB per device
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Recording takes some hundred nanoseconds per step, and one step of each stage is slowed
    /// down, in which its memory is measured. On accelerators, each step is waited for, so that its
    /// time is the device's and not that of launching it. A pipeline that is not traced pays
    /// nothing.
    pub fn start_trace(&mut self) {
        self.built().recorder.start(self.built().stages.len(), self.built().routes.len());
    }

    /// Ends the recording and gives what ran since its start: training steps, and the forwards and
    /// backwards of ordinary calls as runs of their own. Those that failed are left out.
    ///
    /// # Errors
    ///
    /// If no trace was started, or nothing has run since.
    pub fn stop_trace(&mut self) -> Result<Trace> {
        let recording = self.built().recorder.stop();
        let recording =
            recording.ok_or_else(|| Error::Setting("there is no trace to stop: call `start_trace` first".into()))?;
        recording.finish(&self.built().routes, &self.core.parameter_bytes)
    }
}
