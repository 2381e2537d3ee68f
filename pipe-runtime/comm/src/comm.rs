//! The processes of a program.

use std::fmt;
use std::process;
use std::sync::{Arc, OnceLock};

use crate::launcher::Launcher;
use crate::mpi::{Operation, World};
use crate::{Broadcasting, Bytes, BytesMut, CommError, Gathering, Receiving, Sending};

/// The processes of a program that an MPI launcher has started, or this process alone.
///
/// A clone is a handle to the same processes. Threads may use it at the same time; one of them at a
/// time is inside MPI.
#[derive(Clone)]
pub struct Comm(Option<Arc<World>>);

impl fmt::Debug for Comm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (rank, size) = (self.rank(), self.size());
        f.debug_struct("Comm").field("rank", &rank).field("size", &size).field("library", &self.library()).finish()
    }
}

impl Comm {
    /// Joins the processes that the launcher has started, and waits for all of them. Without a
    /// launcher, this process is alone, and no MPI library is opened.
    ///
    /// A second call gives the same result: MPI can be initialized only once in a process.
    ///
    /// # Errors
    ///
    /// If there is a launcher, but no MPI library, or one that does not belong to the launcher
    /// (each process would take itself for the only one), or one that cannot be used.
    pub fn init() -> Result<Self, CommError> {
        static COMM: OnceLock<Result<Comm, CommError>> = OnceLock::new();
        let join = || {
            let Some(launcher) = Launcher::of_this_process() else { return Ok(Self::alone()) };
            let world = Arc::new(World::open(&launcher)?);
            world.leave_at_exit();
            Ok(Self(Some(world)))
        };
        COMM.get_or_init(join).clone()
    }

    /// This process alone, whatever the launcher says.
    pub fn alone() -> Self {
        Self(None)
    }

    /// The number of this process, below [`size`](Self::size).
    pub fn rank(&self) -> usize {
        self.0.as_ref().map_or(0, |world| world.rank)
    }

    /// The number of processes.
    pub fn size(&self) -> usize {
        self.0.as_ref().map_or(1, |world| world.size)
    }

    /// The name and version of the MPI library, or "none".
    pub fn library(&self) -> &str {
        self.0.as_ref().map_or("none", |world| &world.version)
    }

    /// Whether this process goes on when another one is lost, and is told so by
    /// [`CommError::Lost`]. This takes Open MPI 5 or newer and `mpiexec --with-ft ulfm`.
    pub fn survives_losses(&self) -> bool {
        self.0.as_ref().is_some_and(|world| world.survives_losses)
    }

    /// Starts to send a message. Messages to one process with one tag arrive in the order in which
    /// they were sent. The buffer is kept until the message is sent.
    ///
    /// A long message moves only while both processes call MPI: while they start, test or wait for
    /// anything.
    ///
    /// # Errors
    ///
    /// If `to` is not the rank of another process, the process was lost, or communication has
    /// ended.
    pub fn send<B: Bytes>(&self, to: usize, tag: u16, buffer: B) -> Result<Sending<B>, CommError> {
        Ok(Sending(Operation::send(self.world_with(to)?, to, tag, buffer)?))
    }

    /// Starts to receive a message of exactly the buffer's length.
    ///
    /// # Errors
    ///
    /// If `from` is not the rank of another process, the process was lost, or communication has
    /// ended.
    pub fn receive<B: BytesMut>(&self, from: usize, tag: u16, buffer: B) -> Result<Receiving<B>, CommError> {
        Ok(Receiving(Operation::receive(self.world_with(from)?, from, tag, buffer)?))
    }

    /// Starts to gather the bytes of all processes. All give the same number of bytes. All
    /// processes start their gathers and broadcasts in the same order.
    ///
    /// # Errors
    ///
    /// If there are more than 2 GiB, a process was lost, or communication has ended.
    pub fn all_gather(&self, bytes: Vec<u8>) -> Result<Gathering, CommError> {
        let length = bytes.len();
        let operation = match &self.0 {
            Some(world) => Operation::all_gather(world, bytes)?,
            None => Operation::done((Vec::new(), bytes)),
        };
        Ok(Gathering { operation, length, size: self.size() })
    }

    /// Starts to give the bytes of the process `root` to all. All give the same number of bytes,
    /// which are overwritten except on `root`. All processes start their gathers and broadcasts in
    /// the same order.
    ///
    /// # Errors
    ///
    /// If `root` is not the rank of a process, there are more than 2 GiB, a process was lost, or
    /// communication has ended.
    pub fn broadcast(&self, root: usize, bytes: Vec<u8>) -> Result<Broadcasting, CommError> {
        if root >= self.size() {
            return Err(self.no_such_process(root));
        }
        Ok(Broadcasting(match &self.0 {
            Some(world) => Operation::broadcast(world, root, bytes)?,
            None => Operation::done(bytes),
        }))
    }

    /// Ends all communication: what is pending on any process fails with [`CommError::Revoked`],
    /// and so does all that is started later. Does nothing unless
    /// [`survives_losses`](Self::survives_losses).
    pub fn revoke(&self) {
        if let Some(world) = &self.0 {
            world.revoke();
        }
    }

    /// Ends MPI, after all processes have called this or have come to the end of their program.
    /// All later communication fails with [`CommError::Ended`]. Without this, MPI ends with the
    /// program.
    ///
    /// # Errors
    ///
    /// If MPI fails.
    pub fn finalize(self) -> Result<(), CommError> {
        self.0.map_or(Ok(()), |world| world.finalize(false))
    }

    /// Ends all processes of the program at once.
    pub fn abort(&self, code: i32) -> ! {
        match &self.0 {
            None => process::exit(code),
            Some(world) => {
                world.abort(code);
                // MPI has ended, or another thread is stuck in it.
                process::abort()
            }
        }
    }

    /// MPI, if there is another process with this rank.
    fn world_with(&self, other: usize) -> Result<&Arc<World>, CommError> {
        match &self.0 {
            Some(world) if other < world.size && other != world.rank => Ok(world),
            _ => Err(self.no_such_process(other)),
        }
    }

    fn no_such_process(&self, other: usize) -> CommError {
        CommError::NoSuchProcess { rank: self.rank(), size: self.size(), other }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_alone_gathers_from_itself() {
        let comm = Comm::alone();
        assert_eq!((comm.rank(), comm.size(), comm.library()), (0, 1, "none"));
        assert_eq!(comm.all_gather(vec![1, 2]).unwrap().wait(None).unwrap(), [[1, 2]]);
        assert_eq!(comm.all_gather(vec![]).unwrap().wait(None).unwrap(), [[0_u8; 0]]);
        assert_eq!(comm.broadcast(0, vec![3]).unwrap().wait(None).unwrap(), [3]);
        let error = comm.send(0, 0, vec![1]).unwrap_err();
        assert_eq!(error.to_string(), "process 0 of 1 cannot exchange messages with process 0");
        assert!(comm.broadcast(1, vec![]).is_err());
        comm.revoke();
        comm.finalize().unwrap();
    }
}
