//! The end of the process.

use std::ffi::{c_int, c_void};
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use super::World;
use crate::CommError;

/// The world to leave, and the process that is in it.
static LEFT_AT_EXIT: OnceLock<(Arc<World>, u32)> = OnceLock::new();

#[cfg(all(target_os = "linux", target_env = "gnu"))]
unsafe extern "C" {
    /// Of glibc. Unlike `atexit`, it tells the exit code.
    fn on_exit(function: extern "C" fn(c_int, *mut c_void), argument: *mut c_void) -> c_int;
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
unsafe extern "C" {
    fn atexit(function: extern "C" fn()) -> c_int;
}

unsafe extern "C" {
    fn raise(signal: c_int) -> c_int;
    fn _exit(code: c_int) -> !;
    fn fflush(stream: *mut c_void) -> c_int;
}

/// How long `MPI_Finalize` may take. Usually it takes some milliseconds.
const PATIENCE: Duration = Duration::from_secs(3);

impl World {
    /// Leaves MPI when this process ends. MPI's own exit handlers, which were registered before,
    /// run after that.
    pub(crate) fn leave_at_exit(self: &Arc<Self>) {
        if LEFT_AT_EXIT.set((Arc::clone(self), process::id())).is_err() {
            return;
        }
        // If there is no memory for it, the launcher complains when the process ends.
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        // SAFETY: the function may be called at the end of the process, in any thread.
        unsafe {
            on_exit(leave, std::ptr::null_mut())
        };
        #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
        // SAFETY: the function may be called at the end of the process, in any thread.
        unsafe {
            atexit(leave_well)
        };
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
extern "C" fn leave_well() {
    leave(0, std::ptr::null_mut());
}

extern "C" fn leave(code: c_int, _: *mut c_void) {
    let Some((world, process)) = LEFT_AT_EXIT.get() else { return };
    if *process != process::id() {
        // A fork of it ends, which is not in MPI.
        return;
    }
    if code != 0 {
        world.leave(code);
        return;
    }
    match world.finalize(true) {
        // Whoever had a use for the lost process knows.
        Ok(()) | Err(CommError::Lost { .. } | CommError::Failed { .. } | CommError::Revoked) => {}
        Err(error) => eprintln!("warning: {error}"),
    }
}

/// Whether `MPI_Finalize` has come back.
static HAS_ENDED: AtomicBool = AtomicBool::new(false);

/// Says that `MPI_Finalize` has come back.
pub(super) fn has_ended() {
    HAS_ENDED.store(true, Ordering::Relaxed);
}

/// Ends this process, at its end, with exit code 0 if `MPI_Finalize` does not come back. Open MPI's
/// waits for ever for a process that is lost after its farewell.
pub(super) fn end_anyway() {
    let end = || {
        thread::sleep(PATIENCE);
        if !HAS_ENDED.load(Ordering::Relaxed) {
            // Nothing is left to do: this is its end.
            end_now(0);
        }
    };
    // Without a thread, the process may wait for ever.
    let _ = thread::Builder::new().name("pipe-comm-end".into()).spawn(end);
}

/// Ends this process, at its end, without the exit handlers of an MPI that was not finalized.
pub(super) fn end_now(code: c_int) -> ! {
    // SAFETY: writes out what C code has printed, then ends the process.
    unsafe {
        fflush(std::ptr::null_mut());
        _exit(code)
    }
}

/// Ends this process as the system does when there is no memory left: no handler runs.
pub(super) fn kill() {
    const SIGKILL: c_int = 9;
    // SAFETY: the signal ends the process.
    unsafe { raise(SIGKILL) };
}
