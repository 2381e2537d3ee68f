//! The processes of this program, as MPI sees them.

use std::ffi::{CStr, c_char, c_int};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use super::abi::Abi;
use super::functions::Functions;
use super::leftovers::Leftovers;
use super::library::Opened;
use crate::CommError;

/// The largest number of bytes in a library's version (8192) or error text, with room to spare.
const TEXT: usize = 16 << 10;

/// After how long a thread counts as stuck in MPI. Copying a message of 1 GiB takes half a second.
const STUCK: Duration = Duration::from_secs(5);

/// Opened and initialized MPI, with a communicator that only this crate uses.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) rank: usize,
    pub(crate) size: usize,
    /// The first line of the library's version.
    pub(crate) version: String,
    pub(crate) survives_losses: bool,
    pub(super) functions: Functions,
    pub(super) abi: Abi,
    pub(super) communicator: usize,
    /// The communicator of processes that end with an error, where losses are survived. It is never
    /// revoked.
    pub(super) goodbyes: usize,
    /// Whether another process was lost or has ended communication, as far as this one has seen.
    pub(super) knows_of_losses: AtomicBool,
    /// One thread at a time is in MPI. With more, some MPIs take milliseconds for a message when
    /// there are fewer cores than threads.
    pub(super) state: Mutex<State>,
    pub(super) library: Opened,
}

/// What one thread at a time may do.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Whether MPI must not be called any more.
    pub has_ended: bool,
    /// Whether `MPI_Finalize` has ended well.
    pub is_finalized: bool,
    pub leftovers: Leftovers,
}

impl World {
    pub(super) fn unusable(&self, reason: impl Into<String>) -> CommError {
        CommError::Unusable { library: self.named(), reason: reason.into() }
    }

    /// The library's path and version.
    pub(super) fn named(&self) -> String {
        format!("{} ({})", self.library.name, self.version)
    }

    /// Keeps other threads out of MPI.
    ///
    /// # Errors
    ///
    /// `CommError::Ended` after MPI was finalized.
    pub(super) fn lock(&self) -> Result<MutexGuard<'_, State>, CommError> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.has_ended { Err(CommError::Ended) } else { Ok(state) }
    }

    /// The same also after the end, when MPI must not be called any more.
    pub(super) fn lock_always(&self) -> (MutexGuard<'_, State>, bool) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let has_ended = state.has_ended;
        (state, has_ended)
    }

    /// The same, unless a thread is stuck in MPI. The state tells whether MPI has ended.
    pub(super) fn lock_soon(&self) -> Option<MutexGuard<'_, State>> {
        let start = Instant::now();
        loop {
            match self.state.try_lock() {
                Ok(state) => return Some(state),
                Err(TryLockError::Poisoned(state)) => return Some(state.into_inner()),
                Err(TryLockError::WouldBlock) if start.elapsed() > STUCK => return None,
                Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_micros(100)),
            }
        }
    }

    /// Turns the result of a function into an error. `peer` is the process with which it
    /// communicates.
    pub(super) fn check(&self, function: &'static str, peer: Option<usize>, code: c_int) -> Result<(), CommError> {
        if code == 0 {
            return Ok(());
        }
        let mut class = code;
        // SAFETY: the pointer is valid. MPI allows this call whenever it can have given a code.
        unsafe { (self.functions.error_class)(code, &raw mut class) };
        if self.abi.lost.contains(&class) {
            self.knows_of_losses.store(true, Ordering::Relaxed);
            return Err(CommError::Lost { rank: peer });
        }
        if class == self.abi.revoked {
            self.knows_of_losses.store(true, Ordering::Relaxed);
            return Err(self.who_failed().map_or(CommError::Revoked, |rank| CommError::Failed { rank }));
        }
        // SAFETY: as above; the buffer is longer than any text.
        let text = text(|bytes, length| unsafe { (self.functions.error_string)(code, bytes, length) });
        Err(CommError::Mpi { function, text })
    }

    /// Ends all communication of all processes, where MPI can do that.
    pub(crate) fn revoke(&self) {
        if let (true, Some(revoke), Ok(_state)) = (self.survives_losses, self.functions.revoke, self.lock()) {
            // SAFETY: MPI is initialized, the communicator is valid, no other thread is in MPI.
            // This fails only for an invalid communicator.
            unsafe { revoke(self.communicator) };
        }
    }
}

/// The text that a function writes, on success.
pub(super) fn text(write: impl FnOnce(*mut c_char, *mut c_int) -> c_int) -> String {
    let mut bytes = vec![0_u8; TEXT];
    let mut length = 0;
    write(bytes.as_mut_ptr().cast(), &raw mut length);
    CStr::from_bytes_until_nul(&bytes).map(|text| text.to_string_lossy().into_owned()).unwrap_or_default()
}
