//! Two engines that run one job together, as two processes do. The model of the connection delivers
//! messages in order, but as late as it likes.

use std::any::Any;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use pipe_schedule::{Action, Order};
use shuttle::sync::Mutex;
use shuttle::thread;

use super::case::{draw, order};
use super::explore;
use super::job::Error;
use crate::{Engine, EngineError, Job, Link, News};

/// A message: the number of its job, and its news.
type Message = (usize, News);

/// One side's part of a job. It performs the ranks whose parity is its number.
struct Side {
    number: usize,
    job: usize,
    /// The engine that runs the job. A real call keeps it alive, too.
    _engine: Arc<Engine<Error>>,
    order: Order,
    failing: BTreeSet<usize>,
    /// The messages to each side that were not delivered yet.
    mailboxes: Arc<[Mutex<Vec<Message>>; 2]>,
    performed: Arc<Mutex<Vec<(usize, usize)>>>,
    /// What this side has heard of.
    arrived: Mutex<BTreeSet<usize>>,
}

impl Side {
    fn tell(&self, news: News) {
        self.mailboxes[1 - self.number].lock().unwrap().push((self.job, news));
    }
}

impl Job for Side {
    type Error = Error;

    fn order(&self) -> &Order {
        &self.order
    }

    fn perform(&self, action: Action) -> Result<(), Error> {
        let step = self.order.steps.iter().position(|step| step.action == action).unwrap();
        for &needed in &self.order.steps[step].after {
            if self.is_remote(self.order.steps[needed].rank) {
                assert!(self.arrived.lock().unwrap().contains(&needed), "step {step} runs before {needed} arrived");
            }
        }
        thread::yield_now();
        self.performed.lock().unwrap().push((self.job, step));
        if self.failing.contains(&step) {
            return Err(Error::Step { job: self.job, step });
        }
        self.tell(News::Arrived(step));
        Ok(())
    }

    fn enter(&self) -> Result<Box<dyn Any>, Error> {
        Ok(Box::new(()))
    }

    fn link(&self) -> Option<&dyn Link<Error>> {
        Some(self)
    }
}

impl Link<Error> for Side {
    fn is_remote(&self, rank: usize) -> bool {
        rank % 2 != self.number
    }

    fn poll(&self) -> Result<Vec<News>, Error> {
        let mut mailbox = self.mailboxes[self.number].lock().unwrap();
        // Nobody waits for what is left of earlier jobs.
        mailbox.retain(|(job, _)| *job >= self.job);
        // A thread may still poll for a job that is over: it leaves the messages of the next one.
        let own = mailbox.iter().take_while(|(job, _)| *job == self.job).count();
        let delivered = draw(0..=own);
        let news: Vec<_> = mailbox.drain(..delivered).map(|(_, news)| news).collect();
        drop(mailbox);
        self.arrived.lock().unwrap().extend(news.iter().filter_map(|news| match news {
            News::Arrived(step) => Some(*step),
            News::Failed(_) => None,
        }));
        Ok(news)
    }

    fn pause(&self, _: Duration) {
        thread::yield_now();
    }

    fn has_failed(&self, step: usize) {
        self.tell(News::Failed(step));
    }
}

/// What an engine returned for each job.
type Outcomes = Vec<Result<(), Error>>;

/// Runs jobs on two engines, one after the other. Returns what each engine returned for each, and
/// the steps that were performed.
fn run(order: &Order, jobs: usize, failing: &BTreeSet<usize>) -> ([Outcomes; 2], Vec<(usize, usize)>) {
    let mailboxes: Arc<[Mutex<Vec<Message>>; 2]> = Arc::default();
    let performed: Arc<Mutex<Vec<(usize, usize)>>> = Arc::default();
    let sides = [0, 1].map(|number| {
        let ranks = (0..order.ranks.len()).filter(|rank| rank % 2 == number).collect();
        let cores = draw(1..=2);
        let (order, failing) = (order.clone(), failing.clone());
        let (mailboxes, performed) = (Arc::clone(&mailboxes), Arc::clone(&performed));
        thread::spawn(move || {
            let engine = Arc::new(Engine::new(ranks, Vec::new(), cores, || {}).unwrap());
            let side = |job| Side {
                number,
                job,
                _engine: Arc::clone(&engine),
                order: order.clone(),
                failing: failing.clone(),
                mailboxes: Arc::clone(&mailboxes),
                performed: Arc::clone(&performed),
                arrived: Mutex::default(),
            };
            (0..jobs).map(|job| engine.run(Arc::new(side(job)))).collect::<Vec<_>>()
        })
    });
    let outcomes = sides.map(|side| side.join().unwrap());
    let performed = performed.lock().unwrap().clone();
    (outcomes, performed)
}

#[test]
fn two_sides_perform_each_step_once_after_what_it_waits_for() {
    explore(|| {
        let order = order(draw(2..=3), draw(2..=3));
        let (outcomes, mut performed) = run(&order, 2, &BTreeSet::new());
        assert!(outcomes.iter().flatten().all(Result::is_ok), "{outcomes:?}");
        performed.sort_unstable();
        let all = (0..2).flat_map(|job| (0..order.steps.len()).map(move |step| (job, step)));
        assert!(performed.into_iter().eq(all));
    });
}

#[test]
fn the_first_failure_of_both_sides_is_known_where_it_happened() {
    explore(|| {
        let order = order(draw(2..=3), draw(2..=3));
        let failing: BTreeSet<_> = (0..draw(1..=3)).map(|_| draw(0..=order.steps.len() - 1)).collect();
        let first = *failing.first().unwrap();
        let owner = order.steps[first].rank % 2;
        let (outcomes, performed) = run(&order, 1, &failing);
        assert!(matches!(outcomes[owner][0], Err(Error::Step { step, .. }) if step == first), "{outcomes:?}");
        let other = &outcomes[1 - owner][0];
        assert!(
            // The other side may have done all of its steps before it hears of the failure.
            matches!(other, Ok(()) | Err(Error::Step { .. } | Error::Refused(EngineError::Elsewhere))),
            "{other:?}"
        );
        let all_before = (0..first).all(|step| performed.contains(&(0, step)));
        assert!(all_before, "all steps before {first} were performed, so that it is the first: {performed:?}");
    });
}
