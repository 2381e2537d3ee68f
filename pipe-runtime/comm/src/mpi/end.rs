//! The end of MPI.

use std::ffi::{c_int, c_void};
use std::sync::atomic::Ordering;

use super::exit;
use super::goodbye::Goodbye;
use super::request::{EMPTY, Request, test};
use super::world::World;
use crate::{CommError, wait};

/// The tag of the last message. It is none of the users'.
pub(super) const FAREWELL: c_int = 1 << 16;

impl World {
    /// Ends MPI, together with the other processes. Does nothing the second time. `at_exit` says
    /// whether nothing is left to do after it.
    pub(crate) fn finalize(&self, at_exit: bool) -> Result<(), CommError> {
        {
            let mut state = self.lock_soon().ok_or_else(|| self.unusable("a thread is stuck in it"))?;
            if state.has_ended {
                return Ok(());
            }
            // From now on, no other thread enters MPI.
            state.has_ended = true;
        }
        let farewell = self.say_farewell();
        if farewell.is_err() && self.survives_losses {
            // After a loss, `MPI_Finalize` of Open MPI may wait for the lost process forever.
            // Without it, this process is taken for lost when it ends.
            self.say_goodbye(Goodbye::Gone);
            return farewell;
        }
        if self.survives_losses && at_exit {
            exit::end_anyway();
        }
        let ended = self.end();
        exit::has_ended();
        ended?;
        self.lock_always().0.is_finalized = true;
        farewell
    }

    /// Calls `MPI_Finalize`. No other thread may enter MPI.
    pub(super) fn end(&self) -> Result<(), CommError> {
        // SAFETY: MPI is initialized, no other thread is in it, and nobody calls it later. Buffers
        // that it may still use are never freed.
        let code = unsafe { (self.functions.finalize)() };
        // A code is all there is: the functions that explain it have ended too.
        if code == 0 { Ok(()) } else { Err(CommError::Mpi { function: "MPI_Finalize", text: format!("code {code}") }) }
    }

    /// Ends this process, or the whole program, with an error code, so that nobody waits for it.
    /// Returns if MPI has ended.
    pub(super) fn leave(&self, code: c_int) {
        if !self.survives_losses {
            return self.abort(code);
        }
        // `MPI_Abort` of this process alone ends the others too.
        match self.lock_soon() {
            None => exit::kill(),
            Some(state) if state.is_finalized => {}
            // Another thread is in `MPI_Finalize`, or it has failed.
            Some(state) if state.has_ended => exit::end_now(code),
            Some(mut state) => {
                state.has_ended = true;
                let knows = self.knows_of_losses.load(Ordering::Relaxed);
                self.say_goodbye(if knows { Goodbye::Gone } else { Goodbye::Failed });
                if self.all_say_goodbye() { exit::end_now(code) } else { exit::kill() }
            }
        }
    }

    /// Ends all processes of the program.
    pub(crate) fn abort(&self, code: c_int) {
        if let Some(mut state) = self.lock_soon()
            && !state.has_ended
        {
            // MPI may call `exit`, and so come back here.
            state.has_ended = true;
            drop(state);
            // SAFETY: MPI is initialized, the handle is predefined, and no other thread enters MPI.
            unsafe { (self.functions.abort)(self.abi.comm_world, code) };
        }
    }

    /// Waits until all processes have come to the end. No other thread may enter MPI.
    ///
    /// MPICH's `MPI_Finalize` waits for the other processes without moving messages, such as the
    /// answers that they wait for. And where losses are survived, this is how the end notices them:
    /// each process hears from each.
    ///
    /// # Errors
    ///
    /// If a process was lost, or communication was revoked.
    fn say_farewell(&self) -> Result<(), CommError> {
        let mut requests = Vec::new();
        let empty: *mut c_void = (&raw const EMPTY).cast_mut().cast();
        let (byte, communicator) = (self.abi.byte, self.communicator);
        for other in (0..self.size).filter(|other| *other != self.rank) {
            let (mut receive, mut send) = (0, 0);
            let peer = other as c_int;
            // SAFETY: MPI is initialized, no other thread is in it, its handles are valid, and the
            // messages have no bytes.
            let code =
                unsafe { (self.functions.irecv)(empty, 0, byte, peer, FAREWELL, communicator, &raw mut receive) };
            self.check("MPI_Irecv", Some(other), code)?;
            requests.push((other, vec![Request { handle: receive, expected: None }]));
            // SAFETY: as above.
            let code = unsafe { (self.functions.isend)(empty, 0, byte, peer, FAREWELL, communicator, &raw mut send) };
            self.check("MPI_Isend", Some(other), code)?;
            requests.push((other, vec![Request { handle: send, expected: None }]));
        }
        wait::until(None, || {
            while let Some((peer, request)) = requests.last_mut() {
                if !test(self, request, Some(*peer))? {
                    return Ok(false);
                }
                requests.pop();
            }
            Ok(true)
        })
    }
}
