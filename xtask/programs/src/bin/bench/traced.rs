//! Training steps that are traced.

use anyhow::{Context, Result};
use pipe_runtime::schedule::{Action, ActionKind, Schedule, Trace};
use pipe_runtime::{Pipe, ScheduleChoice};
use tch::Tensor;

use crate::Args;
use crate::models::{Subject, Task};
use crate::ways::Step;

/// A pipeline whose training steps can be traced.
pub trait Traced {
    /// Traces a step. Returns the bytes of each rank's peak: the measured one, and that of the
    /// trace's simulation.
    fn peaks(&mut self) -> Result<Vec<(u64, u64)>>;

    /// Traces a step. Returns the time in which the last stage was busy.
    fn busy(&mut self) -> Result<Step>;
}

/// A pipeline and its work.
pub struct Training<S: Subject> {
    pub pipe: Pipe<S>,
    pub task: Task,
}

impl<S: Subject> Training<S> {
    /// Runs a training step and returns its loss.
    pub fn step(&mut self) -> Result<Tensor> {
        Ok(self.pipe.train_step(&self.task.input, &self.task.target, self.task.loss)?.loss)
    }

    fn trace(&mut self) -> Result<(Trace, Tensor)> {
        self.pipe.start_trace();
        let loss = self.step()?;
        Ok((self.pipe.stop_trace()?, loss))
    }
}

impl<S: Subject> Traced for Training<S> {
    fn peaks(&mut self) -> Result<Vec<(u64, u64)>> {
        drop(self.trace()?);
        Ok(self.pipe.memory()?.ranks.iter().map(|rank| (rank.peak(), rank.simulated)).collect())
    }

    fn busy(&mut self) -> Result<Step> {
        let (trace, loss) = self.trace()?;
        let run = trace.typical();
        let last = run.schedule.stages - 1;
        let steps = run.steps.iter().filter(|step| step.action.stage == last);
        let seconds: f64 = steps.map(|step| step.end - step.start).sum();
        Ok(Step { milliseconds: seconds * 1e3, loss: loss.try_into()? })
    }
}

/// The schedule that the arguments ask for.
pub fn schedule(args: &Args) -> Result<ScheduleChoice> {
    if !args.recompute_every {
        return Ok(args.schedule.into());
    }
    let ranks = args.ranks.unwrap_or(args.stages);
    let per_rank = args.stages.checked_div(ranks).context("there is a rank")?;
    Ok(recompute_every(args.schedule.schedule(ranks, per_rank, args.chunks)?).into())
}

/// The schedule with a recomputation right before each backward.
fn recompute_every(mut schedule: Schedule) -> Schedule {
    let with = |action: &Action| {
        let starts_backward = matches!(action.kind, ActionKind::Backward | ActionKind::BackwardInput);
        let first = starts_backward.then(|| Action::recompute(action.stage, action.micro_batch));
        first.into_iter().chain([*action])
    };
    for list in &mut schedule.ranks {
        *list = list.iter().flat_map(with).collect();
    }
    schedule
}
