use std::any::Any;
use std::time::Duration;

use pipe_schedule::{Action, Order};

/// The work of a run.
pub trait Job: Send + Sync {
    /// The error with which a step fails.
    type Error;

    /// The steps, and the order in which they may run.
    fn order(&self) -> &Order;

    /// Performs one step. It must catch panics of the step.
    ///
    /// # Errors
    ///
    /// If the step fails. The run then ends with the error of the failed step that is first in the
    /// order.
    fn perform(&self, action: Action) -> Result<(), Self::Error>;

    /// Restores the state that the job has changed. It is called after the job failed and before
    /// another one starts.
    ///
    /// # Errors
    ///
    /// If the state cannot be restored. The run then ends with this error.
    fn undo(&self) -> Result<(), Self::Error> {
        Ok(())
    }

    /// Prepares the current thread to perform steps of this job (modes, intra-op threads). The
    /// returned guard restores the thread when dropped.
    ///
    /// # Errors
    ///
    /// If the thread cannot be prepared. The run then ends with this error.
    fn enter(&self) -> Result<Box<dyn Any>, Self::Error>;

    /// The connection to the processes that perform the steps of other ranks; `None` if this
    /// process performs all steps.
    fn link(&self) -> Option<&dyn Link<Self::Error>> {
        None
    }
}

/// A job's connection to the processes that perform the steps of other ranks.
///
/// An executor that has no step to perform polls it, and the others do so between two steps. One
/// thread polls at a time.
pub trait Link<E>: Sync {
    /// Whether another process performs the steps of this rank.
    fn is_remote(&self, rank: usize) -> bool;

    /// Returns what has happened since the last call, without waiting.
    ///
    /// # Errors
    ///
    /// If the connection is lost. The run then ends with this error.
    fn poll(&self) -> Result<Vec<News>, E>;

    /// Waits a little between two polls, after polling in vain for `idle`. The other processes may
    /// need the thread's core.
    fn pause(&self, idle: Duration);

    /// Tells the other processes that the step at this position of the order has failed here.
    fn has_failed(&self, step: usize);
}

/// What another process has done. Steps are positions in the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// It has performed a step, and all results of it that this process needs have arrived.
    Arrived(usize),
    /// A step of it has failed.
    Failed(usize),
}

/// The steps of one rank, which the calling thread performs itself. Unlike a [`Job`], it may borrow
/// from the caller.
pub struct Local<'a, E> {
    /// The rank.
    pub rank: usize,
    /// Performs a step of the rank, in place of [`Job::perform`].
    pub perform: &'a mut dyn FnMut(Action) -> Result<(), E>,
}
