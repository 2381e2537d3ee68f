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
//! # Accelerators
//!
//! MPI moves the memory of hosts. That of accelerators is moved by [`nccl`], which is opened at run
//! time too.
//!
//! # The end of a program
//!
//! MPI must be ended on all processes. [`Comm::finalize`] does so explicitly. Otherwise, this
//! happens when the program ends: when `main` returns, or in [`std::process::exit`].
//!
//! * With exit code 0, the process waits for the others, as MPI does.
//! * With any other exit code (101 after a panic in `main`, 1 if it returns an error), this process
//!   leaves at once, so that the others do not wait for it forever. If
//!   [`survives_losses`](Comm::survives_losses), it tells them, and what they do fails with
//!   [`CommError::Failed`]. It waits up to three seconds for their ends, so that the launcher
//!   learns of the error; if they go on, it kills itself, since with its exit code the launcher
//!   would end them. Without `survives_losses`, the launcher ends them.
//!
//! A program that ends well with another exit code than 0 calls [`Comm::finalize`] before. Where
//! the C library does not tell the exit code (other systems than Linux with glibc), every end
//! counts as one with exit code 0.
//!
//! # Lost processes
//!
//! `mpiexec --with-ft ulfm` of Open MPI 5 keeps the other processes alive when one is killed: what
//! waits for it fails with [`CommError::Lost`]. What waits for a third process goes on waiting
//! until someone calls [`Comm::revoke`]. A process that is frozen is not noticed at all: give each
//! wait a deadline. This `mpiexec` ends with 0 also if
//! processes were killed, unless another one ends with an error code: those that see a loss do well
//! to do so. All other launchers end all processes when one is lost.

#![deny(missing_docs)]

mod comm;
mod error;
mod launcher;
mod mpi;
pub mod nccl;
mod operations;
mod wait;

pub use comm::Comm;
pub use error::CommError;
pub use mpi::{Bytes, BytesMut};
pub use operations::{Broadcasting, Gathering, Receiving, Sending};
pub use wait::pause;
