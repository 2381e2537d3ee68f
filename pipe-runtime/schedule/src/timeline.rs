use std::collections::BTreeSet;

use crate::list::Action;

/// An action with its time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// What is done.
    pub action: Action,
    /// From when on.
    pub start: f64,
    /// Until when.
    pub end: f64,
}

/// When each rank did what, or would do it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Timeline {
    /// Each rank's actions, in order. The first starts at 0.
    pub ranks: Vec<Vec<Span>>,
    /// When the last action ends.
    pub makespan: f64,
}

impl Timeline {
    /// For how long a rank works.
    pub fn busy(&self, rank: usize) -> f64 {
        self.ranks[rank].iter().map(|span| span.end - span.start).sum()
    }

    /// For how long a rank does nothing, from the start of the step to its end.
    pub fn idle(&self, rank: usize) -> f64 {
        self.makespan - self.busy(rank)
    }

    /// For how long a rank does nothing between its first action and its last.
    ///
    /// Step after step this is what counts: a rank may start the next step while later ones still
    /// finish this one, unless the optimizer holds all of them together.
    pub fn idle_within(&self, rank: usize) -> f64 {
        match (self.ranks[rank].first(), self.ranks[rank].last()) {
            (Some(first), Some(last)) => last.end - first.start - self.busy(rank),
            _ => 0.,
        }
    }

    /// The time from a rank's first action to the end of its last, on the rank where that is
    /// longest: what one step of many costs.
    pub fn period(&self) -> f64 {
        let within = |list: &Vec<Span>| Some(list.last()?.end - list.first()?.start);
        self.ranks.iter().filter_map(within).fold(0., f64::max)
    }

    /// Which part of the ranks' time is work: 1 where no rank ever waits, 0 where there is nothing
    /// to do.
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

    /// The same in another unit of time, of which one of this one's has `factor`.
    pub(crate) fn scaled(&self, factor: f64) -> Self {
        let scale = |span: &Span| Span { start: span.start * factor, end: span.end * factor, ..*span };
        Self {
            ranks: self.ranks.iter().map(|list| list.iter().map(scale).collect()).collect(),
            makespan: self.makespan * factor,
        }
    }
}
