//! Traces: when each action of a pipeline's runs ran, and how long it took.

use pipe_schedule::Trace;

use super::handle::Pipe;
use crate::error::{Error, Result};
use crate::stages::Pipeline;

impl<M: Pipeline> Pipe<M> {
    /// Starts to record when each action of the schedule runs, until
    /// [`stop_trace`](Self::stop_trace). Run a few training steps first, so that libtorch has set
    /// itself up. Run several while recording, because costs are medians.
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
    /// Recording costs a few hundred nanoseconds per action. Memory is measured in one action of
    /// each stage, which is slower. On accelerators, the host waits for each action, so that the
    /// recorded time is the device's own. A pipeline that is not traced has no overhead.
    pub fn start_trace(&mut self) {
        self.built().recorder.start(self.built().stages.len(), self.built().routes.len());
    }

    /// Ends the recording and returns what ran since its start: training steps, and the forwards
    /// and backwards of ordinary calls as separate runs. Runs that failed are left out.
    ///
    /// # Errors
    ///
    /// Fails if no trace was started, if nothing has run since it was, or if the pipeline runs over
    /// several processes.
    pub fn stop_trace(&mut self) -> Result<Trace> {
        let recording = self.built().recorder.stop();
        if self.built().remote.is_some() {
            return Err(Error::Setting(
                "a pipeline over several processes records only this process's steps, which make no trace: trace it in one process".into(),
            ));
        }
        let recording =
            recording.ok_or_else(|| Error::Setting("there is no trace to stop: call `start_trace` first".into()))?;
        recording.finish(&self.built().routes, &self.core.parameter_bytes)
    }
}
