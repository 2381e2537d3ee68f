//! Operations on their way, with their buffers.

use std::sync::Arc;
use std::{fmt, mem};

use super::held::Held;
use super::request::{Request, test};
use super::world::World;
use crate::CommError;

/// What MPI does with the memory of a value. If it is dropped before it is done, MPI keeps the
/// value.
pub(crate) struct Operation<T: Send + 'static> {
    /// `None` if there is no other process, so that nothing is to be done.
    world: Option<Arc<World>>,
    /// `None` only once it was taken out.
    held: Option<Held<T>>,
    /// The messages that are not done.
    requests: Vec<Request>,
    /// The other process, if there is exactly one.
    peer: Option<usize>,
    failure: Option<CommError>,
}

impl<T: Send + 'static> fmt::Debug for Operation<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, peer, failure, .. } = self;
        f.debug_struct("Operation")
            .field("requests", requests)
            .field("peer", peer)
            .field("failure", failure)
            .finish_non_exhaustive()
    }
}

impl<T: Send + 'static> Operation<T> {
    /// An operation in which nothing is to be done.
    pub(crate) fn done(value: T) -> Self {
        Self { world: None, held: Some(Held::new(value)), requests: Vec::new(), peer: None, failure: None }
    }

    /// Starts to use the memory of `held`. `begin` runs while no other thread is in MPI.
    pub(super) fn start(
        world: &Arc<World>,
        held: Held<T>,
        peer: Option<usize>,
        begin: impl FnOnce(&mut Vec<Request>) -> Result<(), CommError>,
    ) -> Result<Self, CommError> {
        let mut requests = Vec::with_capacity(1);
        let mut state = world.lock()?;
        let failure = begin(&mut requests).err();
        let freed = state.leftovers.advance(world);
        drop(state);
        drop(freed);
        let operation = Self { world: Some(Arc::clone(world)), held: Some(held), requests, peer, failure };
        match &operation.failure {
            None => Ok(operation),
            // The first parts of a long message may be on their way. The drop takes care of them.
            Some(error) => Err(error.clone()),
        }
    }

    /// Whether MPI is done. An error is given again each time.
    pub(crate) fn is_done(&mut self) -> Result<bool, CommError> {
        if let Some(error) = &self.failure {
            return Err(error.clone());
        }
        let Some(world) = &self.world else { return Ok(true) };
        if self.requests.is_empty() {
            return Ok(true);
        }
        let mut state = world.lock()?;
        let outcome = test(world, &mut self.requests, self.peer);
        let freed = state.leftovers.advance(world);
        drop(state);
        // What users have implemented must not run inside the lock.
        drop(freed);
        self.failure = outcome.as_ref().err().cloned();
        outcome
    }

    /// Takes the value.
    ///
    /// # Panics
    ///
    /// Unless `is_done` has returned true.
    pub(crate) fn take(mut self) -> T {
        assert!(self.requests.is_empty() && self.failure.is_none(), "the operation is not done");
        self.held.take().expect("the value is taken once").into_inner()
    }
}

impl<T: Send + 'static> Drop for Operation<T> {
    fn drop(&mut self) {
        let Some(world) = &self.world else { return };
        // A message of a wrong length has arrived, so that MPI is done with its buffer.
        if self.requests.is_empty() && matches!(self.failure, None | Some(CommError::Length { .. })) {
            return;
        }
        let (Some(held), mut requests) = (self.held.take(), mem::take(&mut self.requests)) else { return };
        let (mut state, has_ended) = world.lock_always();
        if self.failure.is_some() || has_ended {
            state.leftovers.keep(held.erased());
            return;
        }
        for request in requests.iter_mut().filter(|request| request.expected.is_some()) {
            // SAFETY: MPI is initialized, no other thread is in it, and the request is active. If
            // this fails, the request is still there, and is waited for.
            unsafe { (world.functions.cancel)(&raw mut request.handle) };
            // A cancelled message has no length.
            request.expected = None;
        }
        state.leftovers.add(requests, held.erased());
    }
}
