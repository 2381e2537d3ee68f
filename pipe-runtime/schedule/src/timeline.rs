use std::collections::BTreeSet;

use crate::list::Action;

/// An action with its start and end times.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// The action.
    pub action: Action,
    /// When it starts.
    pub start: f64,
    /// When it ends.
    pub end: f64,
}

/// When each rank runs which action, as measured or as simulated.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Timeline {
    /// Each rank's actions, in order. The earliest action of all starts at 0.
    pub ranks: Vec<Vec<Span>>,
    /// When the last action ends.
    pub makespan: f64,
}

impl Timeline {
    /// Total time for which a rank works.
    ///
    /// # Panics
    ///
    /// If there is no such rank.
    pub fn busy(&self, rank: usize) -> f64 {
        self.ranks[rank].iter().map(|span| span.end - span.start).sum()
    }

    /// Total time for which a rank is idle, from the start of the step to its end.
    ///
    /// # Panics
    ///
    /// If there is no such rank.
    pub fn idle(&self, rank: usize) -> f64 {
        self.makespan - self.busy(rank)
    }

    /// Total time for which a rank is idle between its first action and its last.
    ///
    /// Over many steps this is the idle time that counts: a rank may start the next step while
    /// later ranks still finish this one, unless the optimizer synchronizes all ranks.
    ///
    /// # Panics
    ///
    /// If there is no such rank.
    pub fn idle_within(&self, rank: usize) -> f64 {
        match (self.ranks[rank].first(), self.ranks[rank].last()) {
            (Some(first), Some(last)) => last.end - first.start - self.busy(rank),
            _ => 0.,
        }
    }

    /// The time from a rank's first action to the end of its last, on the rank where it is longest.
    /// In a long sequence of steps, this is what each step costs.
    pub fn period(&self) -> f64 {
        let within = |list: &Vec<Span>| Some(list.last()?.end - list.first()?.start);
        self.ranks.iter().filter_map(within).fold(0., f64::max)
    }

    /// Fraction of the ranks' time that is work: 1 if no rank ever waits, 0 if there is nothing to
    /// do.
    pub fn efficiency(&self) -> f64 {
        let busy: f64 = (0..self.ranks.len()).map(|rank| self.busy(rank)).sum();
        let all = self.makespan * self.ranks.len() as f64;
        if all > 0. { busy / all } else { 0. }
    }

    /// Each rank's stages, in order.
    pub(crate) fn stages(&self) -> Vec<Vec<usize>> {
        let stages = |list: &Vec<Span>| list.iter().map(|span| span.action.stage).collect::<BTreeSet<_>>();
        self.ranks.iter().map(|list| stages(list).into_iter().collect()).collect()
    }

    /// The same timeline with all times multiplied by `factor`, to change their unit.
    pub(crate) fn scaled(&self, factor: f64) -> Self {
        let scale = |span: &Span| Span { start: span.start * factor, end: span.end * factor, ..*span };
        Self {
            ranks: self.ranks.iter().map(|list| list.iter().map(scale).collect()).collect(),
            makespan: self.makespan * factor,
        }
    }
}
