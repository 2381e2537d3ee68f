//! What really ran, beside what the simulator says of the same lists.

mod chrome;
mod costs;

use crate::list::{Action, Schedule};
use crate::simulate::{Costs, Simulation, SimulationError, simulate};
use crate::timeline::{Span, Timeline};

/// What ran when, over some runs of one pipeline. Times are in seconds, memory is in bytes.
///
/// It prints as a grid, measured above simulated, and is drawn by [`to_svg`](Self::to_svg) and, for
/// Perfetto, [`to_chrome`](Self::to_chrome).
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
    /// At least one.
    runs: Vec<Run>,
    /// What the parts of the model hold and hand on, per micro-batch; the times in it are of no
    /// meaning.
    pub sizes: Costs,
}

/// One run of a pipeline's lists: a training step, or a forward or a backward alone.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// What was to run.
    pub schedule: Schedule,
    /// What did, in the order in which it ended.
    pub steps: Vec<TracedStep>,
}

/// One action as it ran.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TracedStep {
    /// What was done.
    pub action: Action,
    /// On which rank.
    pub rank: usize,
    /// By which thread, from 0.
    pub thread: usize,
    /// When it started, after the trace did.
    pub start: f64,
    /// When it ended.
    pub end: f64,
}

impl Run {
    /// When each rank did what. Time 0 is the start of the first action.
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

    /// How many threads worked on it.
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
    /// Of these runs, the earliest first; none if there are none.
    pub fn new(runs: Vec<Run>, sizes: Costs) -> Option<Self> {
        if runs.is_empty() { None } else { Some(Self { runs, sizes }) }
    }

    /// The runs, in order: at least one.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// The run that stands for all of them: of those with the most actions, the one of median
    /// length.
    pub fn typical(&self) -> &Run {
        let most = self.runs.iter().map(|run| run.steps.len()).max().unwrap_or(0);
        let mut longest: Vec<_> = self.runs.iter().filter(|run| run.steps.len() == most).collect();
        longest.sort_by(|a, b| a.length().total_cmp(&b.length()));
        longest[(longest.len() - 1) / 2]
    }

    /// The lists of the [typical](Self::typical) run by the simulator, with the [measured
    /// costs](Self::costs). It has a processor for each rank; where fewer threads served the ranks,
    /// what was measured is longer.
    ///
    /// # Errors
    ///
    /// If the trace was changed so that it is none.
    pub fn simulated(&self) -> Result<Simulation, SimulationError> {
        simulate(&self.typical().schedule, &self.costs())
    }
}
