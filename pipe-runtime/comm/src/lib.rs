//! Messages between the processes of a program that an MPI launcher has started.
//!
//! Nothing of MPI is needed to build this crate. [`Comm::init`] looks at the environment: if a
//! launcher has started this process, it opens the launcher's MPI library, otherwise the process is
//! alone and no library is opened. Three binary interfaces are known: that of Open MPI 4 and 5,
//! that of MPICH (Intel MPI, MVAPICH, Cray MPI), and the standard one of MPI 5.
//!
//! Only [`Comm::init`], the `wait` functions and the end of the program wait for other processes.
//! One thread at a time is inside MPI.
//!
//! # The library
//!
//! Open MPI's `mpiexec` tells its processes where its library is. Otherwise, the system's search
//! path for libraries is used. The variable `PIPE_MPI` overrides both: it is the path of a library,
//! or of a folder in which, or in whose `lib`, a library is.
//!
//! # The end of a program
//!
//! MPI must be ended on all processes. [`Comm::finalize`] does so explicitly. Otherwise, this
//! happens when the program ends: when `main` returns, or in [`std::process::exit`].
//!
//! * With exit code 0, the process waits for the others, as MPI does.
//! * With any other exit code (101 after a panic in `main`, 1 if it returns an error), this process
//!   leaves at once, so that the others do not wait for it forever. If
//!   [`survives_losses`](Comm::survives_losses), it kills itself, and the others see it as lost:
//!   the launcher does not tell them of an exit code. Otherwise, the launcher ends them.
//!
//! A program that ends well with another exit code than 0 calls [`Comm::finalize`] before. Where
//! the C library does not tell the exit code (other systems than Linux with glibc), every end
//! counts as one with exit code 0.
//!
//! # Lost processes
//!
//! `mpiexec --with-ft ulfm` of Open MPI 5 keeps the other processes alive when one is killed: what
//! waits for it fails with [`CommError::Lost`]. What waits for a third process goes on waiting
//! until someone calls [`Comm::revoke`]. A process that is frozen, or that ends by `_exit` with an
//! error code, is not noticed at all: give each wait a deadline. The exit code of this `mpiexec` is
//! 0 if the other processes end with 0. All other launchers end all processes when one is lost.

#![deny(missing_docs)]

mod comm;
mod error;
mod launcher;
mod mpi;
mod operations;
mod wait;

pub use comm::Comm;
pub use error::CommError;
pub use mpi::{Bytes, BytesMut};
pub use operations::{Broadcasting, Gathering, Receiving, Sending};
pub use wait::pause;
