//! Locks, counters and threads: those of the standard library, or, in the tests of this crate,
//! those of a model checker that decides which thread runs next.

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

    /// Spins until `changed` returns true, for about `limit`. Returns whether it did.
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

    /// The checker has no clock. Between two polls, other threads may do anything, so two polls
    /// represent any number of them.
    pub(crate) fn watch(_: Duration, changed: impl Fn() -> bool) -> bool {
        (0..2).any(|_| {
            thread::yield_now();
            changed()
        })
    }
}
