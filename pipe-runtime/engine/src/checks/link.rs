//! Two engines that run one job together, as two processes do. The model of the connection delivers
//! messages in order, but as late as it likes.

use std::any::Any;
use std::collections::BTreeSet;
use std::sync::Arc;

use pipe_schedule::{Action, Order};
use shuttle::sync::Mutex;
use shuttle::thread;

use super::case::{draw, order};
use super::explore;
use super::job::Error;
use crate::{Engine, EngineError, Job, Link, News};

/// One side's part of a job. It performs the ranks whose parity is its number.
struct Side {
    number: usize,
    order: Order,
    failing: BTreeSet<usize>,
    /// The messages to each side that were not delivered yet.
    mailboxes: Arc<[Mutex<Vec<News>>; 2]>,
    performed: Arc<Mutex<Vec<usize>>>,
    /// What this side has heard of.
    arrived: Mutex<BTreeSet<usize>>,
}

impl Side {
    fn tell(&self, news: News) {
        self.mailboxes[1 - self.number].lock().unwrap().push(news);
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
        self.performed.lock().unwrap().push(step);
        if self.failing.contains(&step) {
            return Err(Error::Step { job: 0, step });
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
        let delivered = draw(0..=mailbox.len());
        let news: Vec<_> = mailbox.drain(..delivered).collect();
        drop(mailbox);
        self.arrived.lock().unwrap().extend(news.iter().filter_map(|news| match news {
            News::Arrived(step) => Some(*step),
            News::Failed(_) => None,
        }));
        Ok(news)
    }

    fn has_failed(&self, step: usize) {
        self.tell(News::Failed(step));
    }
}

/// Runs a job on two engines. Returns what each of them returned, and the steps that were
/// performed.
fn run(order: &Order, failing: &BTreeSet<usize>) -> ([Result<(), Error>; 2], Vec<usize>) {
    let mailboxes: Arc<[Mutex<Vec<News>>; 2]> = Arc::default();
    let performed: Arc<Mutex<Vec<usize>>> = Arc::default();
    let sides = [0, 1].map(|number| {
        let side = Side {
            number,
            order: order.clone(),
            failing: failing.clone(),
            mailboxes: Arc::clone(&mailboxes),
            performed: Arc::clone(&performed),
            arrived: Mutex::default(),
        };
        let ranks = (0..order.ranks.len()).filter(|rank| rank % 2 == number).collect();
        let cores = draw(1..=2);
        thread::spawn(move || Engine::new(ranks, Vec::new(), cores, || {}).unwrap().run(Arc::new(side)))
    });
    let outcomes = sides.map(|side| side.join().unwrap());
    let performed = performed.lock().unwrap().clone();
    (outcomes, performed)
}

#[test]
fn two_sides_perform_each_step_once_after_what_it_waits_for() {
    explore(|| {
        let order = order(draw(2..=3), draw(2..=3));
        let (outcomes, mut performed) = run(&order, &BTreeSet::new());
        assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
        performed.sort_unstable();
        assert!(performed.into_iter().eq(0..order.steps.len()));
    });
}

#[test]
fn the_first_failure_of_both_sides_is_known_where_it_happened() {
    explore(|| {
        let order = order(draw(2..=3), draw(2..=3));
        let failing: BTreeSet<_> = (0..draw(1..=3)).map(|_| draw(0..=order.steps.len() - 1)).collect();
        let first = *failing.first().unwrap();
        let owner = order.steps[first].rank % 2;
        let (outcomes, performed) = run(&order, &failing);
        assert!(matches!(outcomes[owner], Err(Error::Step { step, .. }) if step == first), "{outcomes:?}");
        let other = &outcomes[1 - owner];
        assert!(
            // The other side may have done all of its steps before it hears of the failure.
            matches!(other, Ok(()) | Err(Error::Step { .. } | Error::Refused(EngineError::Elsewhere))),
            "{other:?}"
        );
        let all_before = (0..first).all(|step| performed.contains(&step));
        assert!(all_before, "all steps before {first} were performed, so that it is the first: {performed:?}");
    });
}
