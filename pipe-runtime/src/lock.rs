//! Locks, and the way out of a stage.

use std::any::Any;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex whose holder may have panicked: what it guards is replaced as a whole, so it is
/// never half-written.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Unwinds out of a stage with a message, without the panic hook's noise.
pub(crate) fn give_up(cause: impl Into<String>) -> ! {
    std::panic::resume_unwind(Box::new(cause.into()) as Box<dyn Any + Send>)
}
