use std::any::Any;
use std::collections::BTreeSet;
use std::sync::Arc;

use pipe_schedule::{Action, Order};
use shuttle::sync::Mutex;
use shuttle::thread;

use super::history::{Event, History};
use crate::{Engine, EngineError, Job};

/// The ways in which a run of a [`Checked`] job can fail.
#[derive(Debug)]
pub enum Error {
    Step {
        job: usize,
        step: usize,
    },
    Enter {
        job: usize,
    },
    Undo {
        job: usize,
    },
    Refused(EngineError),
    /// The connection to another side is lost.
    Lost,
}

impl From<EngineError> for Error {
    fn from(refusal: EngineError) -> Self {
        Self::Refused(refusal)
    }
}

/// A job that passes messages between its steps, as a real call does, and records its events.
pub struct Checked {
    pub number: usize,
    pub order: Order,
    pub faults: Faults,
    /// The rank that the caller performs itself.
    pub local: Option<usize>,
    /// The engine that runs the job. The job keeps it alive, as a real call does, and each step
    /// tries to run another job on it.
    pub engine: Option<Arc<Engine<Error>>>,
    pub history: Arc<History>,
    /// The message of each step to those that wait for it. Each lock is held only briefly.
    messages: Vec<Mutex<Option<usize>>>,
}

/// The faults that are injected into a job.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// The steps that fail.
    pub steps: BTreeSet<usize>,
    /// Only the caller's thread can be prepared; `enter` fails on all others.
    pub enter: bool,
    /// `undo` fails.
    pub undo: bool,
}

impl Checked {
    pub fn new(number: usize, order: Order, faults: Faults, local: Option<usize>, history: &Arc<History>) -> Self {
        let messages = order.steps.iter().map(|_| Mutex::new(None)).collect();
        Self { number, order, faults, local, engine: None, history: Arc::clone(history), messages }
    }

    pub fn record(&self, event: Event) {
        self.history.record(self.number, event);
    }

    pub fn perform_step(&self, action: Action, by_local: bool) -> Result<(), Error> {
        let step = self.order.steps.iter().position(|step| step.action == action).unwrap();
        self.record(Event::Started { step });
        let rank = self.order.steps[step].rank;
        assert_eq!(by_local, self.local == Some(rank), "step {step} of rank {rank} went to the wrong body");
        if let Some(engine) = &self.engine {
            let other = Self::new(self.number + 1, self.order.clone(), Faults::default(), None, &self.history);
            let refused = engine.run(Arc::new(other));
            assert!(matches!(refused, Err(Error::Refused(EngineError::Nested))), "{refused:?}");
        }
        for &needed in &self.order.steps[step].after {
            assert_eq!(*self.messages[needed].lock().unwrap(), Some(needed), "step {step} lacks a message");
        }
        let failed = self.faults.steps.contains(&step);
        if !failed {
            *self.messages[step].lock().unwrap() = Some(step);
        }
        self.record(Event::Ended { step, failed });
        if failed { Err(Error::Step { job: self.number, step }) } else { Ok(()) }
    }
}

impl Job for Checked {
    type Error = Error;

    fn order(&self) -> &Order {
        &self.order
    }

    fn perform(&self, action: Action) -> Result<(), Error> {
        self.perform_step(action, false)
    }

    fn undo(&self) -> Result<(), Error> {
        self.record(Event::Undone);
        thread::yield_now();
        if self.faults.undo { Err(Error::Undo { job: self.number }) } else { Ok(()) }
    }

    fn enter(&self) -> Result<Box<dyn Any>, Error> {
        let on_worker = thread::current().name().is_some_and(|name| name.starts_with("pipe-"));
        thread::yield_now();
        if on_worker && self.faults.enter {
            self.record(Event::NotEntered);
            return Err(Error::Enter { job: self.number });
        }
        self.record(Event::Entered);
        Ok(Box::new(Inside { job: self.number, history: Arc::clone(&self.history) }))
    }
}

struct Inside {
    job: usize,
    history: Arc<History>,
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.history.record(self.job, Event::Left);
    }
}
