//! Waiting by polling. MPI moves long messages only while both processes call it, and has nothing
//! on which a thread could sleep.

use std::hint::spin_loop;
use std::thread;
use std::time::{Duration, Instant};

use crate::CommError;

/// How long a thread polls without a pause. A message between two processes takes some
/// microseconds.
const SPIN: Duration = Duration::from_micros(50);
/// How long a thread then polls with `yield` between two polls: the process that it waits for may
/// need its core.
const YIELD: Duration = Duration::from_millis(5);
/// How long it sleeps between two polls after that, at least and at most. A message is late by no
/// more than a small part of the wait.
const SLEEP: [Duration; 2] = [Duration::from_micros(20), Duration::from_millis(1)];

/// Calls `is_done` until it returns true.
///
/// # Errors
///
/// `CommError::Deadline`, and those of `is_done`.
pub(crate) fn until(
    deadline: Option<Instant>,
    mut is_done: impl FnMut() -> Result<bool, CommError>,
) -> Result<(), CommError> {
    if is_done()? {
        return Ok(());
    }
    let start = Instant::now();
    loop {
        if is_done()? {
            return Ok(());
        }
        let now = Instant::now();
        if deadline.is_some_and(|deadline| now >= deadline) {
            return Err(CommError::Deadline);
        }
        pause(now.duration_since(start));
    }
}

/// Waits a little between two polls of a thread that has polled in vain for `waited`: longer, the
/// longer it has waited.
pub fn pause(waited: Duration) {
    if waited < SPIN {
        spin_loop();
    } else if waited < YIELD {
        thread::yield_now();
    } else {
        thread::sleep((waited / 64).clamp(SLEEP[0], SLEEP[1]));
    }
}
