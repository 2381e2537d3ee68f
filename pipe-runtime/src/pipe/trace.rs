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
    /// Over several processes, all of them call this, and get the steps of all processes of their
    /// replica by one clock. Messages between them are timed, so that
    /// [`costs`](Trace::costs) have what the values take on their way.
    ///
    /// # Errors
    ///
    /// Fails if no trace was started, or if nothing has run since it was.
    pub fn stop_trace(&mut self) -> Result<Trace> {
        let built = self.built();
        let recording = built.recorder.current();
        let recording =
            recording.ok_or_else(|| Error::Setting("there is no trace to stop: call `start_trace` first".into()));
        let Some(remote) = &built.remote else {
            drop(built.recorder.stop());
            let recording = recording?;
            recording.optimizer_keeps(built.optimizer_bytes());
            let trace = recording.finish(&built.routes, &self.core.parameter_bytes, |_, _, _| 0.)?;
            built.recorder.has_held(&recording, &trace, built.rank_of());
            return Ok(trace);
        };
        // The recording goes on if another process calls something else.
        remote.agree("stop_trace", recording.as_ref().map(|_| &()))?;
        drop(built.recorder.stop());
        let recording = recording?;
        recording.optimizer_keeps(built.optimizer_bytes());
        let ahead = remote.clock_offset(|| recording.now())?;
        let price = remote.world().message_price().map_err(|error| remote.lost(error))?;
        let parts = remote.agree("the parts of a trace", Ok(&recording.part(ahead)))?;
        recording.join(&parts[remote.replica()], built.rank_of());
        let message = |from: usize, to: usize, bytes: f64| match remote.process_of(from) == remote.process_of(to) {
            true => 0.,
            false => price.of(bytes),
        };
        let trace = recording.finish(&built.routes, &self.core.parameter_bytes, message)?;
        built.recorder.has_held(&recording, &trace, built.rank_of());
        Ok(trace)
    }
}
