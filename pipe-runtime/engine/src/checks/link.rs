//! Two or three engines that run one job together, as processes do. The model of the connection
//! delivers the messages of each pair in order, as late as it likes, and those of several pairs in
//! any order. A side may die, of which the others hear at some time.

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

/// What connects the sides.
struct Connection {
    /// The messages that were not delivered yet, by receiver and sender.
    mailboxes: Vec<Vec<Mutex<Vec<Message>>>>,
    /// Whether a side has died.
    is_lost: Mutex<bool>,
}

/// One side's part of a job. It performs every `sides`-th rank, beginning with its number.
struct Side {
    number: usize,
    sides: usize,
    job: usize,
    /// The engine that runs the job. A real call keeps it alive, too.
    _engine: Arc<Engine<Error>>,
    order: Order,
    failing: BTreeSet<usize>,
    /// The step at which the side that performs it dies.
    deadly: Option<usize>,
    connection: Arc<Connection>,
    performed: Arc<Mutex<Vec<(usize, usize)>>>,
    /// What this side has heard of.
    arrived: Mutex<BTreeSet<usize>>,
}

impl Side {
    /// Tells all others.
    fn tell(&self, news: News) {
        for other in (0..self.sides).filter(|&other| other != self.number) {
            self.connection.mailboxes[other][self.number].lock().unwrap().push((self.job, news));
        }
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
        if self.deadly == Some(step) {
            *self.connection.is_lost.lock().unwrap() = true;
            return Err(Error::Lost);
        }
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
        rank % self.sides != self.number
    }

    fn poll(&self) -> Result<Vec<News>, Error> {
        if *self.connection.is_lost.lock().unwrap() && draw(0..=1) == 1 {
            return Err(Error::Lost);
        }
        let mut news = Vec::new();
        for mailbox in &self.connection.mailboxes[self.number] {
            let mut mailbox = mailbox.lock().unwrap();
            // Nobody waits for what is left of earlier jobs.
            mailbox.retain(|(job, _)| *job >= self.job);
            // A thread may still poll for a job that is over: it leaves the messages of the next
            // one.
            let own = mailbox.iter().take_while(|(job, _)| *job == self.job).count();
            let delivered = draw(0..=own);
            news.extend(mailbox.drain(..delivered).map(|(_, news)| news));
        }
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
        // The dead tell nothing.
        if self.deadly != Some(step) || self.is_remote(self.order.steps[step].rank) {
            self.tell(News::Failed(step));
        }
    }
}

/// What an engine returned for each job.
type Outcomes = Vec<Result<(), Error>>;

/// Runs jobs on several engines, one after the other. Returns what each engine returned for each,
/// and the steps that were performed.
fn run(
    order: &Order,
    sides: usize,
    jobs: usize,
    failing: &BTreeSet<usize>,
    deadly: Option<usize>,
) -> (Vec<Outcomes>, Vec<(usize, usize)>) {
    let mailboxes = (0..sides).map(|_| (0..sides).map(|_| Mutex::default()).collect()).collect();
    let connection = Arc::new(Connection { mailboxes, is_lost: Mutex::new(false) });
    let performed: Arc<Mutex<Vec<(usize, usize)>>> = Arc::default();
    let side = |number: usize| {
        let ranks = (0..order.ranks.len()).filter(|rank| rank % sides == number).collect();
        let cores = draw(1..=2);
        let (order, failing) = (order.clone(), failing.clone());
        let (connection, performed) = (Arc::clone(&connection), Arc::clone(&performed));
        thread::spawn(move || {
            let engine = Arc::new(Engine::new(ranks, Vec::new(), cores, || {}).unwrap());
            let side = |job| Side {
                number,
                sides,
                job,
                _engine: Arc::clone(&engine),
                order: order.clone(),
                failing: failing.clone(),
                deadly,
                connection: Arc::clone(&connection),
                performed: Arc::clone(&performed),
                arrived: Mutex::default(),
            };
            (0..jobs).map(|job| engine.run(Arc::new(side(job)))).collect::<Vec<_>>()
        })
    };
    let running: Vec<_> = (0..sides).map(side).collect();
    let outcomes = running.into_iter().map(|side| side.join().unwrap()).collect();
    let performed = performed.lock().unwrap().clone();
    (outcomes, performed)
}

#[test]
fn sides_perform_each_step_once_after_what_it_waits_for() {
    explore(|| {
        let sides = draw(2..=3);
        let order = order(draw(sides..=3), draw(2..=3));
        let (outcomes, mut performed) = run(&order, sides, 2, &BTreeSet::new(), None);
        assert!(outcomes.iter().flatten().all(Result::is_ok), "{outcomes:?}");
        performed.sort_unstable();
        let all = (0..2).flat_map(|job| (0..order.steps.len()).map(move |step| (job, step)));
        assert!(performed.into_iter().eq(all));
    });
}

#[test]
fn the_first_failure_of_both_sides_is_known_where_it_happened() {
    explore(|| {
        let sides = draw(2..=3);
        let order = order(draw(sides..=3), draw(2..=3));
        let failing: BTreeSet<_> = (0..draw(1..=3)).map(|_| draw(0..=order.steps.len() - 1)).collect();
        let first = *failing.first().unwrap();
        let owner = order.steps[first].rank % sides;
        let (outcomes, performed) = run(&order, sides, 1, &failing, None);
        assert!(matches!(outcomes[owner][0], Err(Error::Step { step, .. }) if step == first), "{outcomes:?}");
        for other in outcomes.iter().enumerate().filter(|(side, _)| *side != owner).map(|(_, other)| &other[0]) {
            assert!(
                // Another side may have done all of its steps before it hears of the failure.
                matches!(other, Ok(()) | Err(Error::Step { .. } | Error::Refused(EngineError::Elsewhere))),
                "{other:?}"
            );
        }
        let all_before = (0..first).all(|step| performed.contains(&(0, step)));
        assert!(all_before, "all steps before {first} were performed, so that it is the first: {performed:?}");
    });
}

#[test]
fn a_side_that_dies_ends_the_waits_of_all_others() {
    explore(|| {
        let sides = draw(2..=3);
        let order = order(draw(sides..=3), draw(2..=3));
        let deadly = draw(0..=order.steps.len() - 1);
        let (outcomes, performed) = run(&order, sides, 1, &BTreeSet::new(), Some(deadly));
        let owner = order.steps[deadly].rank % sides;
        assert!(matches!(outcomes[owner][0], Err(Error::Lost)), "{outcomes:?}");
        for (side, other) in outcomes.iter().enumerate() {
            // Another side may have done all of its steps without the one that died.
            let mut own = (0..order.steps.len()).filter(|&step| order.steps[step].rank % sides == side);
            let is_done = own.all(|step| performed.contains(&(0, step)));
            // One that has noticed may have told it.
            let has_heard = matches!(other[0], Err(Error::Lost | Error::Refused(EngineError::Elsewhere)));
            assert!(has_heard || (side != owner && is_done && other[0].is_ok()), "{outcomes:?}");
        }
    });
}
