//! What really ran, to be compared with the simulation of the same lists.

mod chrome;
mod costs;

use crate::list::{Action, Schedule};
use crate::simulate::{Costs, Simulation, SimulationError, simulate};
use crate::timeline::{Span, Timeline};

/// When each action ran, in one or more runs of a pipeline. Times are in seconds, memory is in
/// bytes.
///
/// It prints as a grid, measured above simulated. [`to_svg`](Self::to_svg) draws it, and
/// [`to_chrome`](Self::to_chrome) writes it for Perfetto.
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct Trace {
    /// The runs, of which there is at least one.
    runs: Vec<Run>,
    /// Memory that the parts of the model hold and pass on, per micro-batch. The times in it have
    /// no meaning.
    pub sizes: Costs,
}

/// One run of a pipeline's lists: a training step, or a forward or a backward alone.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// The lists that were to run.
    pub schedule: Schedule,
    /// The actions that ran, in the order in which they ended.
    pub steps: Vec<TracedStep>,
}

/// One action as it ran.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TracedStep {
    /// The action.
    pub action: Action,
    /// The rank that it ran on.
    pub rank: usize,
    /// The thread that ran it, from 0.
    pub thread: usize,
    /// When it started, in seconds from the start of the trace.
    pub start: f64,
    /// When it ended, in seconds from the start of the trace.
    pub end: f64,
}

impl Run {
    /// When each rank ran which action. Time 0 is the start of the first action.
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

    /// Number of threads that ran its actions.
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
    /// Makes a trace of these runs, the earliest first. Returns `None` if there are no runs.
    pub fn new(runs: Vec<Run>, sizes: Costs) -> Option<Self> {
        if runs.is_empty() { None } else { Some(Self { runs, sizes }) }
    }

    /// The runs, in order. There is at least one.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// The run that represents all of them: among those with the most actions, the one of median
    /// length.
    pub fn typical(&self) -> &Run {
        let most = self.runs.iter().map(|run| run.steps.len()).max().unwrap_or(0);
        let mut longest: Vec<_> = self.runs.iter().filter(|run| run.steps.len() == most).collect();
        longest.sort_by(|a, b| a.length().total_cmp(&b.length()));
        longest[(longest.len() - 1) / 2]
    }

    /// Simulates the lists of the [typical](Self::typical) run with the [measured
    /// costs](Self::costs). The simulator has one processor per rank. Where fewer threads served
    /// the ranks, the measured times are longer.
    ///
    /// # Errors
    ///
    /// If the lists of the run cannot finish, or [`sizes`](Self::sizes) are for another number of
    /// stages. Neither occurs in a trace that was recorded and not changed.
    pub fn simulated(&self) -> Result<Simulation, SimulationError> {
        simulate(&self.typical().schedule, &self.costs())
    }
}
