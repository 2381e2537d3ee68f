//! Locking a mutex, and unwinding out of a stage.

use std::any::Any;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks `mutex`, ignoring poisoning. The guarded values are always replaced as a whole, so a
/// holder that panicked cannot have left one half-written.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Unwinds out of a stage with `cause` as the message. The panic hook does not run.
pub(crate) fn give_up(cause: impl Into<String>) -> ! {
    std::panic::resume_unwind(Box::new(cause.into()) as Box<dyn Any + Send>)
}
