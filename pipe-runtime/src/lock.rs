//! Locking, and leaving a stage with an error.

use std::any::Any;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex whose holder may have panicked. Its contents are always replaced as a whole, so
/// they are never half-written.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Leaves a stage by unwinding with a message, without a message of the panic hook.
pub(crate) fn give_up(cause: impl Into<String>) -> ! {
    std::panic::resume_unwind(Box::new(cause.into()) as Box<dyn Any + Send>)
}
