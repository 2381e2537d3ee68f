use pipe_schedule::Order;

/// The progress of a run of ordered op lists. It decides which step may start and which error is
/// returned, independently of threads and tensors.
#[derive(Debug)]
pub(crate) struct Progress<E> {
    /// For each rank: the number of its steps that have been started.
    started: Vec<usize>,
    /// For each rank: whether one of its steps is running.
    running: Vec<bool>,
    /// For each step: whether it is done.
    done: Vec<bool>,
    remaining: usize,
    failure: Option<(usize, E)>,
}

impl<E> Progress<E> {
    pub(crate) fn new(order: &Order) -> Self {
        Self {
            started: vec![0; order.ranks.len()],
            running: vec![false; order.ranks.len()],
            done: vec![false; order.steps.len()],
            remaining: order.steps.len(),
            failure: None,
        }
    }

    /// Starts the next step of the first of `ranks` that has one ready, and returns the step's
    /// position in the order. The caller must end it with [`finish`](Self::finish).
    ///
    /// After a failure, only steps that precede the failed one in the order still start. If one of
    /// them fails too, its error replaces the first, so the result is the same as if the steps had
    /// been run one by one.
    pub(crate) fn start(&mut self, order: &Order, ranks: impl IntoIterator<Item = usize>) -> Option<usize> {
        let rank = ranks.into_iter().find(|&rank| self.ready(order, rank).is_some())?;
        let step = self.ready(order, rank)?;
        self.started[rank] += 1;
        self.running[rank] = true;
        Some(step)
    }

    fn ready(&self, order: &Order, rank: usize) -> Option<usize> {
        // A job may leave out ranks of the executors.
        if *self.running.get(rank)? {
            return None;
        }
        let &step = order.ranks[rank].get(self.started[rank])?;
        let too_late = self.failure.as_ref().is_some_and(|(failed, _)| step >= *failed);
        let waits = order.steps[step].after.iter().any(|&needed| !self.done[needed]);
        (!too_late && !waits).then_some(step)
    }

    /// Ends a started step.
    pub(crate) fn finish(&mut self, order: &Order, step: usize, result: Result<(), E>) {
        self.running[order.steps[step].rank] = false;
        match result {
            Ok(()) => {
                self.done[step] = true;
                self.remaining -= 1;
            }
            Err(error) => {
                // The rank of the failed step performs no further steps, because they come later in
                // the order.
                if self.failure.as_ref().is_none_or(|(failed, _)| step < *failed) {
                    self.failure = Some((step, error));
                }
            }
        }
    }

    /// Fails the run because of an error outside of any step. No further step starts.
    pub(crate) fn abort(&mut self, error: E) {
        self.failure = Some((0, error));
    }

    /// Whether a run that is over did not succeed.
    pub(crate) fn has_failed(&self) -> bool {
        self.failure.is_some() || self.remaining > 0
    }

    /// Whether no step is running and none can start any more.
    pub(crate) fn is_over(&self, order: &Order) -> bool {
        self.remaining == 0
            || (!self.running.contains(&true) && (0..self.started.len()).all(|rank| self.ready(order, rank).is_none()))
    }

    /// The result of the run: the failure that is first in the order, or an error about steps that
    /// never started.
    pub(crate) fn into_result(self) -> Result<(), Ended<E>> {
        match self.failure {
            Some((_, error)) => Err(Ended::Failed(error)),
            None if self.remaining > 0 => Err(Ended::Deadlock(self.remaining)),
            None => Ok(()),
        }
    }
}

/// The reason why a run ended before all of its steps were done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended<E> {
    /// A step failed.
    Failed(E),
    /// The number of steps that wait for others forever.
    Deadlock(usize),
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Runs a GPipe schedule. `picks` decides which rank is next, and the steps in `failing` fail.
    fn run(stages: usize, micro_batches: usize, failing: &[usize], picks: &[usize]) -> Result<(), Ended<usize>> {
        let rank_of: Vec<_> = (0..stages).collect();
        let order = pipe_schedule::gpipe(&rank_of, micro_batches, |_| true).order().unwrap();
        let mut progress = Progress::new(&order);
        let mut running = Vec::new();
        let mut picks = picks.iter().cycle();
        while !progress.is_over(&order) {
            let &pick = picks.next().unwrap();
            let rotated = (0..stages).map(|rank| (rank + pick) % stages);
            match progress.start(&order, rotated) {
                Some(step) if pick % 3 > 0 => running.push(step),
                Some(step) => progress.finish(&order, step, fail(step, failing)),
                None => {
                    let step = running.swap_remove(pick % running.len());
                    progress.finish(&order, step, fail(step, failing));
                }
            }
        }
        progress.into_result()
    }

    fn fail(step: usize, failing: &[usize]) -> Result<(), usize> {
        if failing.contains(&step) { Err(step) } else { Ok(()) }
    }

    proptest! {
        #[test]
        fn every_interleaving_finishes(
            stages in 1usize..6,
            micro_batches in 1usize..8,
            picks in prop::collection::vec(0usize..100, 1..40),
        ) {
            prop_assert_eq!(run(stages, micro_batches, &[], &picks), Ok(()));
        }

        #[test]
        fn the_first_failure_in_the_order_counts_whatever_the_interleaving(
            stages in 1usize..6,
            micro_batches in 1usize..8,
            failing in prop::collection::vec(0usize..1000, 1..5),
            picks in prop::collection::vec(0usize..100, 1..40),
        ) {
            let steps = stages * micro_batches * 3;
            let failing: Vec<_> = failing.into_iter().map(|step| step % steps).collect();
            let first = *failing.iter().min().unwrap();
            prop_assert_eq!(run(stages, micro_batches, &failing, &picks), Err(Ended::Failed(first)));
        }
    }

    #[test]
    fn a_rank_that_the_order_lacks_has_nothing_to_do() {
        let order = pipe_schedule::gpipe(&[0], 1, |_| false).order().unwrap();
        assert_eq!(Progress::<()>::new(&order).start(&order, [7]), None);
        assert_eq!(Progress::<()>::new(&order).start(&order, [7, 0]), Some(0));
    }

    #[test]
    fn a_wait_that_never_ends_is_an_error() {
        let mut order = pipe_schedule::gpipe(&[0, 1], 1, |_| false).order().unwrap();
        order.steps[0].after.push(3);
        assert!(Progress::<()>::new(&order).is_over(&order));
        assert_eq!(Progress::<()>::new(&order).into_result(), Err(Ended::Deadlock(4)));
    }
}
