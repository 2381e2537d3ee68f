use pipe_schedule::Order;

/// The progress of a run of ordered op lists. It decides which step may start and which error is
/// returned, independently of threads and tensors.
#[derive(Debug)]
pub(crate) struct Progress<E> {
    /// For each rank: the number of its steps that have been started.
    started: Vec<usize>,
    /// For each rank: whether one of its steps is running.
    running: Vec<bool>,
    /// For each step: whether it is done. A step of another process is done once its results have
    /// arrived.
    done: Vec<bool>,
    /// The number of steps of this process that are not done.
    remaining: usize,
    /// For each rank: whether another process performs its steps.
    remote: Vec<bool>,
    /// The failed step that is first in the order, so far. There is no error if another process
    /// failed.
    failure: Option<(usize, Option<E>)>,
}

impl<E> Progress<E> {
    /// `is_remote` says whether another process performs the steps of a rank.
    pub(crate) fn new(order: &Order, is_remote: impl Fn(usize) -> bool) -> Self {
        let remote: Vec<_> = (0..order.ranks.len()).map(is_remote).collect();
        let own = order.ranks.iter().zip(&remote).filter(|(_, remote)| !**remote);
        Self {
            started: vec![0; order.ranks.len()],
            running: vec![false; order.ranks.len()],
            done: vec![false; order.steps.len()],
            remaining: own.map(|(steps, _)| steps.len()).sum(),
            remote,
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
        let step = self.next(order, rank)?;
        let waits = order.steps[step].after.iter().any(|&needed| !self.done[needed]);
        (!self.running[rank] && !waits).then_some(step)
    }

    /// The next step of a rank of this process, unless it comes after the failure.
    fn next(&self, order: &Order, rank: usize) -> Option<usize> {
        // A job may leave out ranks of the executors.
        if *self.remote.get(rank)? {
            return None;
        }
        let &step = order.ranks[rank].get(self.started[rank])?;
        self.failure.as_ref().is_none_or(|(failed, _)| step < *failed).then_some(step)
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
                self.fail(step, Some(error));
            }
        }
    }

    /// Records that the results of a step of another process have arrived.
    pub(crate) fn arrived(&mut self, step: usize) {
        if let Some(done) = self.done.get_mut(step) {
            *done = true;
        }
    }

    /// Records that a step has failed; without an error if another process performed it.
    pub(crate) fn fail(&mut self, step: usize, error: Option<E>) {
        if self.failure.as_ref().is_none_or(|(failed, _)| step < *failed) {
            self.failure = Some((step, error));
        }
    }

    /// Fails the run because of an error outside of any step. No further step starts.
    pub(crate) fn abort(&mut self, error: E) {
        self.failure = Some((0, Some(error)));
    }

    /// Whether a run that is over did not succeed.
    pub(crate) fn has_failed(&self) -> bool {
        self.failure.is_some() || self.remaining > 0
    }

    /// Whether no step of this process is running and none can start any more.
    pub(crate) fn is_over(&self, order: &Order) -> bool {
        if self.remaining == 0 {
            return true;
        }
        // What another process does may let a step start, unless that comes after the failure.
        let waits = self.remote.contains(&true);
        let next = |rank| if waits { self.next(order, rank) } else { self.ready(order, rank) };
        !self.running.contains(&true) && (0..self.started.len()).all(|rank| next(rank).is_none())
    }

    /// The result of the run: the failure that is first in the order, or an error about steps that
    /// never started.
    pub(crate) fn into_result(self) -> Result<(), Ended<E>> {
        match self.failure {
            Some((_, Some(error))) => Err(Ended::Failed(error)),
            Some((_, None)) => Err(Ended::Elsewhere),
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
    /// A step of another process failed.
    Elsewhere,
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
        let mut progress = Progress::new(&order, |_| false);
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
        assert_eq!(Progress::<()>::new(&order, |_| false).start(&order, [7]), None);
        assert_eq!(Progress::<()>::new(&order, |_| false).start(&order, [7, 0]), Some(0));
    }

    #[test]
    fn a_wait_that_never_ends_is_an_error() {
        let mut order = pipe_schedule::gpipe(&[0, 1], 1, |_| false).order().unwrap();
        order.steps[0].after.push(3);
        assert!(Progress::<()>::new(&order, |_| false).is_over(&order));
        assert_eq!(Progress::<()>::new(&order, |_| false).into_result(), Err(Ended::Deadlock(4)));
    }

    #[test]
    fn steps_wait_for_what_arrives_from_another_process() {
        let order = pipe_schedule::gpipe(&[0, 1], 1, |_| false).order().unwrap();
        let mut progress = Progress::<()>::new(&order, |rank| rank == 0);
        assert_eq!(progress.start(&order, [0, 1]), None, "the second stage waits for the first one");
        assert!(!progress.is_over(&order));
        progress.arrived(0);
        assert_eq!(progress.start(&order, [0, 1]), Some(1));
        progress.finish(&order, 1, Ok(()));
        assert_eq!(progress.start(&order, [0, 1]), Some(2));
        progress.finish(&order, 2, Ok(()));
        assert!(progress.is_over(&order));
        assert_eq!(progress.into_result(), Ok(()));
    }

    #[test]
    fn a_failure_elsewhere_ends_the_steps_after_it_and_not_those_before_it() {
        let order = pipe_schedule::gpipe(&[0, 1], 2, |_| false).order().unwrap();
        let position = |action| order.steps.iter().position(|step| step.action == action).unwrap();
        let mut progress = Progress::<()>::new(&order, |rank| rank == 1);
        progress.fail(position(pipe_schedule::Action::forward(1, 1)), None);
        for _ in 0..2 {
            let step = progress.start(&order, [0]).unwrap();
            progress.finish(&order, step, Ok(()));
        }
        // The backwards of stage 0 come after the failure.
        assert!(progress.is_over(&order));
        assert_eq!(progress.into_result(), Err(Ended::Elsewhere));
    }
}
