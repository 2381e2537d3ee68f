use std::collections::BTreeSet;

use crate::list::Action;

/// An action with its times.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// The action.
    pub action: Action,
    /// When it starts.
    pub start: f64,
    /// When it ends.
    pub end: f64,
}

/// The times of the actions of each rank, measured or simulated.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Timeline {
    /// The actions of each rank, in order. The earliest action of all ranks starts at 0.
    pub ranks: Vec<Vec<Span>>,
    /// When the last action ends.
    pub makespan: f64,
}

impl Timeline {
    /// The time that a rank works.
    ///
    /// # Panics
    ///
    /// Panics if there is no such rank.
    pub fn busy(&self, rank: usize) -> f64 {
        self.ranks[rank].iter().map(|span| span.end - span.start).sum()
    }

    /// The time that a rank is idle, from the start of the step to its end.
    ///
    /// # Panics
    ///
    /// Panics if there is no such rank.
    pub fn idle(&self, rank: usize) -> f64 {
        self.makespan - self.busy(rank)
    }

    /// The time that a rank is idle between its first action and its last.
    ///
    /// In a sequence of steps, this is the idle time that counts: a rank may start the next step
    /// while later ranks still finish this one, unless the optimizer makes all of them wait.
    ///
    /// # Panics
    ///
    /// Panics if there is no such rank.
    pub fn idle_within(&self, rank: usize) -> f64 {
        match (self.ranks[rank].first(), self.ranks[rank].last()) {
            (Some(first), Some(last)) => last.end - first.start - self.busy(rank),
            _ => 0.,
        }
    }

    /// The time from a rank's first action to the end of its last, for the rank where that is
    /// longest: what one step in a sequence costs.
    pub fn period(&self) -> f64 {
        let within = |list: &Vec<Span>| Some(list.last()?.end - list.first()?.start);
        self.ranks.iter().filter_map(within).fold(0., f64::max)
    }

    /// The part of the ranks' time that is work: 1 if no rank waits, 0 if there are no actions.
    pub fn efficiency(&self) -> f64 {
        let busy: f64 = (0..self.ranks.len()).map(|rank| self.busy(rank)).sum();
        let all = self.makespan * self.ranks.len() as f64;
        if all > 0. { busy / all } else { 0. }
    }

    /// The stages of each rank, in order.
    pub(crate) fn stages(&self) -> Vec<Vec<usize>> {
        let stages = |list: &Vec<Span>| list.iter().map(|span| span.action.stage).collect::<BTreeSet<_>>();
        self.ranks.iter().map(|list| stages(list).into_iter().collect()).collect()
    }

    /// The same timeline in another unit of time: all times are multiplied by `factor`.
    pub(crate) fn scaled(&self, factor: f64) -> Self {
        let scale = |span: &Span| Span { start: span.start * factor, end: span.end * factor, ..*span };
        Self {
            ranks: self.ranks.iter().map(|list| list.iter().map(scale).collect()).collect(),
            makespan: self.makespan * factor,
        }
    }
}
