//! Locks, counters and threads: from the standard library, or, in this crate's own tests, from a
//! model checker that decides which thread runs next.

#[cfg(test)]
pub(crate) use checked::*;
#[cfg(not(test))]
pub(crate) use real::*;

#[cfg(not(test))]
mod real {
    use std::hint::spin_loop;
    pub(crate) use std::sync::atomic::AtomicU64;
    pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, mpsc};
    pub(crate) use std::thread::{self, JoinHandle};
    pub(crate) use std::thread_local;
    use std::time::{Duration, Instant};

    /// Waits for `changed` without sleeping, for about `limit`. Returns whether it came.
    pub(crate) fn watch(limit: Duration, changed: impl Fn() -> bool) -> bool {
        let start = Instant::now();
        loop {
            for _ in 0..64 {
                if changed() {
                    return true;
                }
                spin_loop();
            }
            if start.elapsed() > limit {
                return false;
            }
        }
    }
}

#[cfg(test)]
mod checked {
    pub(crate) use shuttle::sync::atomic::AtomicU64;
    pub(crate) use shuttle::sync::{Condvar, Mutex, MutexGuard, mpsc};
    pub(crate) use shuttle::thread::{self, JoinHandle};
    pub(crate) use shuttle::thread_local;
    use std::time::Duration;

    /// Looks twice. The checker has no clock, and between any two looks all other threads may do
    /// anything, so two looks stand for any number of them.
    pub(crate) fn watch(_: Duration, changed: impl Fn() -> bool) -> bool {
        (0..2).any(|_| {
            thread::yield_now();
            changed()
        })
    }
}
