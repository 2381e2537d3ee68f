use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use shuttle::thread::{self, ThreadId};

use super::job::{Checked, Error};
use crate::EngineError;

/// An event in the life of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Entered,
    NotEntered,
    Left,
    Started { step: usize },
    Ended { step: usize, failed: bool },
    Undone,
}

/// The events in order, each with its job and its thread. The lock is the standard library's and
/// not the checker's, so recording an event does not let another thread run.
#[derive(Default)]
pub struct History(Mutex<Vec<(usize, ThreadId, Event)>>);

impl History {
    pub fn record(&self, job: usize, event: Event) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((job, thread::current().id(), event));
    }

    /// Checks that jobs do not overlap: from the first step of a job to its last step or its
    /// undoing, there is no event of another job's steps.
    pub fn check_serial(&self) {
        let events = self.0.lock().unwrap();
        let mut jobs: Vec<_> = events
            .iter()
            .filter(|(_, _, event)| matches!(event, Event::Started { .. } | Event::Ended { .. } | Event::Undone))
            .map(|&(job, ..)| job)
            .collect();
        jobs.dedup();
        let distinct: BTreeSet<_> = jobs.iter().collect();
        assert_eq!(distinct.len(), jobs.len(), "jobs overlap: {jobs:?}");
    }

    /// Checks all invariants of a job that has returned `outcome`.
    pub fn check_job(&self, job: &Checked, outcome: &Result<(), Error>) {
        let events = self.0.lock().unwrap();
        let mut seen = Seen::default();
        for &(_, thread, event) in events.iter().filter(|(number, ..)| *number == job.number) {
            seen.follow(job, thread, event);
        }
        assert!(seen.inside.is_empty(), "threads are still prepared for job {}", job.number);
        assert!(seen.running.is_empty(), "steps are still running: {:?}", seen.running);
        let number = job.number;
        // Every step before the first failing one can run in any interleaving, so that failure must
        // be the one returned.
        let first = job.faults.steps.first().copied();
        match outcome {
            Ok(()) => {
                assert_eq!(seen.done.len(), job.order.steps.len(), "steps are missing");
                assert!(!seen.undone);
                return;
            }
            Err(Error::Step { job, step }) => {
                assert_eq!((*job, Some(*step)), (number, first), "another failure counts");
                assert!((0..*step).all(|before| seen.done.contains(&before)), "not the first that fails");
            }
            Err(Error::Enter { job }) => assert!(*job == number && seen.shut_out_in_time, "nothing kept a thread out"),
            Err(Error::Undo { job }) => assert!(*job == number && (first.is_some() || seen.shut_out_in_time)),
            Err(Error::Refused(EngineError::Deadlock(steps))) => {
                assert_eq!(*steps, job.order.steps.len() - seen.done.len());
            }
            Err(Error::Refused(refusal)) => panic!("{refusal}"),
            Err(Error::Lost) => panic!("there is no other side"),
        }
        assert!(seen.undone, "not undone");
        assert_eq!(job.faults.undo, matches!(outcome, Err(Error::Undo { .. })), "{outcome:?}");
    }
}

/// The state of a job after the events so far.
#[derive(Default)]
struct Seen {
    inside: Vec<ThreadId>,
    shut_out: Vec<ThreadId>,
    /// Whether a thread was shut out while the run was not over yet.
    shut_out_in_time: bool,
    running: BTreeSet<usize>,
    done: BTreeSet<usize>,
    started: BTreeSet<usize>,
    undone: bool,
}

impl Seen {
    fn follow(&mut self, job: &Checked, thread: ThreadId, event: Event) {
        match event {
            Event::Entered => {
                assert!(!self.inside.contains(&thread), "entered twice");
                self.inside.push(thread);
            }
            Event::NotEntered => {
                assert!(!self.shut_out.contains(&thread), "tried to enter again");
                self.shut_out.push(thread);
            }
            Event::Left => {
                let position = self.inside.iter().position(|&inside| inside == thread);
                self.inside.remove(position.expect("left without having entered"));
            }
            Event::Started { step } => {
                assert!(self.inside.contains(&thread), "step {step} on a thread that is not prepared");
                assert!(!self.undone, "step {step} after the job was undone");
                assert!(self.started.insert(step), "step {step} twice");
                let steps = &job.order.ranks[job.order.steps[step].rank];
                let before = steps.iter().take_while(|&&before| before != step);
                for needed in before.chain(&job.order.steps[step].after) {
                    assert!(self.done.contains(needed), "step {step} before step {needed}");
                }
                self.running.insert(step);
            }
            Event::Ended { step, failed } => {
                assert!(self.running.remove(&step));
                if !failed {
                    self.done.insert(step);
                }
            }
            Event::Undone => {
                assert!(self.running.is_empty(), "undone while steps run: {:?}", self.running);
                assert!(!self.undone, "undone twice");
                self.undone = true;
                self.shut_out_in_time = !self.shut_out.is_empty();
            }
        }
    }
}
