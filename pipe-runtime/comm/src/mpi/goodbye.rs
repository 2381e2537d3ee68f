//! The end of processes where the others survive it. The launcher ends all of them if one ends with
//! an error code, and tells them nothing. So a process with an error tells the others itself, and
//! waits until they have come to their ends too: then the launcher learns of the error. A process
//! for which the others do not wait is killed, which the launcher takes for a loss.

use std::ffi::{c_int, c_void};
use std::time::{Duration, Instant};

use super::abi::Status;
use super::request::{EMPTY, Request, test};
use super::world::World;
use crate::wait;

/// What a process says at its end, as the tag of a message without bytes.
#[derive(Clone, Copy)]
#[repr(i32)]
pub(super) enum Goodbye {
    /// It ends with an error of its own.
    Failed = 0,
    /// It ends after others have failed.
    Gone = 1,
}

/// How long a process with an error waits for the others.
const PATIENCE: Duration = Duration::from_secs(3);

impl World {
    /// Tells the other processes that this one comes to its end, which ends all communication. No
    /// other thread may enter MPI.
    pub(super) fn say_goodbye(&self, goodbye: Goodbye) {
        let empty: *mut c_void = (&raw const EMPTY).cast_mut().cast();
        let byte = self.abi.byte;
        for other in self.others() {
            let mut handle = 0;
            let (peer, tag) = (other as c_int, goodbye as c_int);
            // SAFETY: MPI is initialized, no other thread is in it, its handles are valid, and the
            // message has no bytes.
            let code = unsafe { (self.functions.isend)(empty, 0, byte, peer, tag, self.goodbyes, &raw mut handle) };
            if code == 0 {
                // It is sent when it is tested, or with what is tested later. One that is lost need
                // not know.
                let _ = test(self, &mut vec![Request { handle, expected: None }], Some(other));
            }
        }
        if let (Goodbye::Failed, Some(revoke)) = (goodbye, self.functions.revoke) {
            // SAFETY: MPI is initialized, the communicator is valid, no other thread is in MPI.
            unsafe { revoke(self.communicator) };
        }
    }

    /// A process that has ended with an error of its own. The caller keeps other threads out of
    /// MPI.
    pub(super) fn who_failed(&self) -> Option<usize> {
        self.others().find(|&other| self.has_said(other, Goodbye::Failed) == Some(true))
    }

    /// Waits until all others have come to their ends or are lost. Returns whether they have. No
    /// other thread may enter MPI.
    pub(super) fn all_say_goodbye(&self) -> bool {
        let mut missing: Vec<_> = self.others().collect();
        let all_said = wait::until(Some(Instant::now() + PATIENCE), || {
            let has_ended = |other: usize| {
                [Goodbye::Failed, Goodbye::Gone].into_iter().any(|goodbye| self.has_said(other, goodbye) != Some(false))
            };
            missing.retain(|&other| !has_ended(other));
            Ok(missing.is_empty())
        });
        all_said.is_ok()
    }

    /// Whether a process has said goodbye in this way; `None` if it is lost.
    fn has_said(&self, other: usize, goodbye: Goodbye) -> Option<bool> {
        let (mut is_there, mut status) = (0, Status::default());
        let (peer, tag) = (other as c_int, goodbye as c_int);
        // SAFETY: MPI is initialized, no other thread is in it, the communicator and the pointers
        // are valid.
        let code = unsafe { (self.functions.iprobe)(peer, tag, self.goodbyes, &raw mut is_there, &raw mut status) };
        (code == 0).then_some(is_there != 0)
    }

    fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let rank = self.rank;
        (0..self.size).filter(move |other| *other != rank)
    }
}
