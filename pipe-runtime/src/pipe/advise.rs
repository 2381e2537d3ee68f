//! Advice: which settings would be better, by the simulator.

use pipe_schedule::{Advice, Costs, Options, Stages, Units, advise};
use tch::Device;

use super::handle::Pipe;
use crate::error::{Error, Result};
use crate::stages::Pipeline;

/// What an action takes besides its work, in seconds: it is handed from one thread to another,
/// which may have to be woken.
const HAND_OFF: f64 = 20e-6;

impl<M: Pipeline> Pipe<M> {
    /// The schedule, number of micro-batches and checkpointing with which a training step of this
    /// model is fastest, of those that need no more than `memory` bytes on any rank (a device; on
    /// the CPU, one of as many as it has cores at most), by the simulator: with what to write, why,
    /// and what else there is.
    ///
    /// `costs` are those of this pipeline as it is, from a trace:
    /// [`Trace::costs`](pipe_schedule::Trace::costs). The stages stay as they are annotated. Half
    /// and twice as many micro-batches are looked at besides as many as there are, because the
    /// times of others cannot be known from these: trace again there. What the optimizer keeps is
    /// not in a trace: add it to the stages' `parameters`.
    ///
    /// ```no_run
    /// # use pipe_runtime::{Pipe, Pipeline, Trace};
    /// # fn example<M: Pipeline>(pipe: &Pipe<M>, trace: &Trace) -> pipe_runtime::Result<()> {
    /// let advice = pipe.advise(&trace.costs(), Some(8 << 30))?; // in 8 GiB per device
    /// if let Some(best) = &advice.best {
    ///     println!("#[pipeline({})]", best.settings());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// If the costs are those of another model.
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
            options.cores = Some(cores);
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
