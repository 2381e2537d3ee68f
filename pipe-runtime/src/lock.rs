//! Locking mutexes, and unwinding out of a stage.

use std::any::Any;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex, even if a previous holder panicked. This is only for values that are replaced as
/// a whole, so they are never half-written.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Unwinds out of a stage with a message, without calling the panic hook.
pub(crate) fn give_up(cause: impl Into<String>) -> ! {
    std::panic::resume_unwind(Box::new(cause.into()) as Box<dyn Any + Send>)
}
