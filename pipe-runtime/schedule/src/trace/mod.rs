//! What really ran, compared with the simulation of the same lists.

mod chrome;
mod costs;

use crate::list::{Action, Schedule};
use crate::simulate::{Costs, Simulation, SimulationError, simulate};
use crate::timeline::{Span, Timeline};

/// The times of all actions in some runs of one pipeline. Times are in seconds, sizes in bytes.
///
/// It prints as a grid, with the measured step above the simulated one. [`to_svg`](Self::to_svg)
/// draws it, and [`to_chrome`](Self::to_chrome) writes it for Perfetto.
///
/// ```no_run
/// # fn example(trace: &pipe_schedule::Trace) -> Result<(), Box<dyn std::error::Error>> {
/// println!("{trace}");
/// std::fs::write("step.svg", trace.to_svg())?;
/// std::fs::write("steps.pipe-trace.json", trace.to_chrome())?;
/// let costs = trace.costs(); // medians, for `simulate` and `advise`
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct Trace {
    /// The runs, of which there is at least one.
    runs: Vec<Run>,
    /// The sizes of what the parts of the model hold and transfer, per micro-batch, and the times
    /// of messages between processes. The times of its stages have no meaning.
    pub sizes: Costs,
}

/// One run of a pipeline's lists: a training step, or a forward or a backward of an ordinary call.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// The lists that ran.
    pub schedule: Schedule,
    /// The actions as they ran, in the order in which they ended.
    pub steps: Vec<TracedStep>,
}

/// One action as it ran.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TracedStep {
    /// The action.
    pub action: Action,
    /// The rank.
    pub rank: usize,
    /// The thread, from 0.
    pub thread: usize,
    /// When it started, in seconds from the start of the trace.
    pub start: f64,
    /// When it ended, in seconds from the start of the trace.
    pub end: f64,
}

impl Run {
    /// The times of the actions of each rank. Time 0 is the start of the first action.
    pub fn timeline(&self) -> Timeline {
        let begin = self.begin();
        let mut ranks = vec![Vec::new(); self.schedule.ranks.len()];
        for step in &self.steps {
            let span = Span { action: step.action, start: step.start - begin, end: step.end - begin };
            ranks.get_mut(step.rank).into_iter().for_each(|list: &mut Vec<_>| list.push(span));
        }
        let makespan = ranks.iter().flatten().map(|span: &Span| span.end).fold(0., f64::max);
        Timeline { ranks, makespan }
    }

    /// The number of threads that took part.
    pub fn threads(&self) -> usize {
        let mut threads: Vec<_> = self.steps.iter().map(|step| step.thread).collect();
        threads.sort_unstable();
        threads.dedup();
        threads.len()
    }

    fn begin(&self) -> f64 {
        self.steps.iter().map(|step| step.start).fold(f64::INFINITY, f64::min)
    }

    fn length(&self) -> f64 {
        self.steps.iter().map(|step| step.end).fold(0., f64::max) - self.begin()
    }
}

impl Trace {
    /// Makes a trace of these runs, the earliest first; `None` if there are none.
    pub fn new(runs: Vec<Run>, sizes: Costs) -> Option<Self> {
        if runs.is_empty() { None } else { Some(Self { runs, sizes }) }
    }

    /// The runs, in order: at least one.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// A typical run: the one of median length, of those with the most actions.
    pub fn typical(&self) -> &Run {
        let most = self.runs.iter().map(|run| run.steps.len()).max().unwrap_or(0);
        let mut longest: Vec<_> = self.runs.iter().filter(|run| run.steps.len() == most).collect();
        longest.sort_by(|a, b| a.length().total_cmp(&b.length()));
        longest[(longest.len() - 1) / 2]
    }

    /// Simulates the lists of the [typical](Self::typical) run with the [measured
    /// costs](Self::costs). The simulator has a processor for each rank; if fewer threads served
    /// the ranks, the measured run is longer.
    ///
    /// # Errors
    ///
    /// Fails if the lists cannot finish, or if [`sizes`](Self::sizes) is for another number of
    /// stages. Neither happens for a trace that was recorded and not changed.
    pub fn simulated(&self) -> Result<Simulation, SimulationError> {
        simulate(&self.typical().schedule, &self.costs())
    }
}
