//! Advice by simulation: which settings would make a training step faster.

use pipe_schedule::{Advice, Costs, Options, Stages, Units, advise};
use tch::Device;

use super::handle::Pipe;
use crate::error::{Error, Result};
use crate::stages::Pipeline;

/// Time that an action takes on top of its work, in seconds: another thread takes it over, and may
/// have to be woken.
pub(super) const HAND_OFF: f64 = 20e-6;

impl<M: Pipeline> Pipe<M> {
    /// Finds the schedule, number of micro-batches and checkpoint mode with which a training step
    /// of this model is fastest, by simulation. Only settings that need at most `memory` bytes on
    /// each rank are considered. A rank is a device; on the CPU, there are at most as many ranks as
    /// cores. The advice has the settings to write, the reason, and the alternatives.
    ///
    /// `costs` are the costs of this pipeline as it is, from a trace:
    /// [`Trace::costs`](pipe_schedule::Trace::costs). The stages stay as annotated. Half and twice
    /// the present number of micro-batches are tried too. The costs of other numbers cannot be
    /// derived from these: trace again with them. A trace does not have the optimizer's state: add
    /// it to the stages' `parameters`.
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
    /// Fails if the costs are for another number of stages.
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
        if on_cpu && self.built().remote.is_none() {
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
