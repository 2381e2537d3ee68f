//! Advice from the simulator on which settings would be better.

use pipe_schedule::{Advice, Costs, Options, Stages, Units, advise};
use tch::Device;

use super::handle::Pipe;
use crate::error::{Error, Result};
use crate::stages::Pipeline;

/// Seconds that an action takes besides its work: it is handed from one thread to another, which
/// may have to be woken.
const HAND_OFF: f64 = 20e-6;

impl<M: Pipeline> Pipe<M> {
    /// Finds the schedule, number of micro-batches and checkpoint mode with which a training step
    /// of this model is fastest, by the simulator, among those that need no more than `memory`
    /// bytes on any rank. The advice says which settings to write and why, and lists the
    /// alternatives. A rank is a device. If all stages are on the CPU, the simulator tries the
    /// numbers of ranks that divide the number of stages, up to the number of cores.
    ///
    /// `costs` are those of this pipeline as it is built, from a trace:
    /// [`Trace::costs`](pipe_schedule::Trace::costs). The stages stay as they are annotated.
    /// Besides the pipeline's own number of micro-batches, half and twice as many are tried. The
    /// times of other numbers cannot be derived from these costs: trace with such a number instead.
    /// A trace does not contain what the optimizer keeps: add it to the stages' `parameters`.
    ///
    /// ```no_run
    /// # use pipe_runtime::{Pipe, Pipeline};
    /// # fn advise<M: Pipeline>(mut pipe: Pipe<M>) -> pipe_runtime::Result<()> {
    /// pipe.start_trace();
    /// // Some training steps.
    /// let trace = pipe.stop_trace()?;
    /// println!("{}", pipe.advise(&trace.costs(), Some(64 << 20))?); // in 64 MiB per device
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns [`Error::Setting`] if the stages, boundaries or skips of the costs do not fit the
    /// model.
    pub fn advise(&self, costs: &Costs, memory: Option<u64>) -> Result<Advice> {
        let stages = &self.built().stages;
        if costs.stages.len() != stages.len() {
            return Err(Error::Setting(format!(
                "the costs are of {} stages and the model has {}: take them from a trace of this model",
                costs.stages.len(),
                stages.len()
            )));
        }
        let rank_of = self.built().rank_of();
        let on_cpu = stages.iter().all(|slot| slot.device == Device::Cpu);
        let mut options = Options::new(rank_of.iter().max().map_or(1, |last| last + 1), self.chunks());
        if on_cpu {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            options.ranks =
                (1..=cores.min(stages.len())).rev().filter(|ranks| stages.len().is_multiple_of(*ranks)).collect();
            options.stages = Stages::Fixed;
        } else {
            options.stages = Stages::On(rank_of.to_vec());
        }
        options.micro_batches = vec![self.chunks(), 2 * self.chunks()];
        options.micro_batches.extend(Some(self.chunks() / 2).filter(|&half| half > 0));
        options.overhead = HAND_OFF;
        options.units = Units::SecondsAndBytes;
        let limit = memory.map_or(f64::INFINITY, |bytes| bytes as f64);
        advise(costs, limit, &options).map_err(|error| Error::Setting(error.to_string()))
    }
}
