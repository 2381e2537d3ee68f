//! The error of all communication.

/// Why communication failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommError {
    /// A launcher has started this process, but its MPI library cannot be opened.
    #[error(
        "cannot open an MPI library ({reasons}): set PIPE_MPI to the folder of the MPI whose `mpiexec` starts this \
         program"
    )]
    Library {
        /// What was tried, and why each of it failed.
        reasons: String,
    },
    /// The launcher and the library belong to different MPIs.
    #[error(
        "the library {library} does not understand the launcher of this process ({launcher}): start the program with \
         the `mpiexec` that belongs to this library, or set PIPE_MPI to the folder of the launcher's MPI"
    )]
    Launcher {
        /// The path or name of the library, and its version if it is known.
        library: String,
        /// What the environment and the library say about the processes.
        launcher: String,
    },
    /// A library of MPI or NCCL cannot be used in the way that this crate needs.
    #[error("the library {library} cannot be used: {reason}")]
    Unusable {
        /// The path or name of the library.
        library: String,
        /// What it lacks, or why it cannot be opened.
        reason: String,
    },
    /// An MPI function failed.
    #[error("{function} failed: {text}")]
    Mpi {
        /// The name of the function.
        function: &'static str,
        /// MPI's description of the error.
        text: String,
    },
    /// A function of NCCL failed.
    #[error("{function} failed: {text} (PIPE_NCCL=off goes without NCCL)")]
    Nccl {
        /// The name of the function.
        function: &'static str,
        /// NCCL's description of the error.
        text: String,
    },
    /// Another process was lost, as seen by an operation that needs it.
    #[error("{} was lost", lost(*.rank))]
    Lost {
        /// The process with which this one communicated; `None` in an operation of all processes.
        rank: Option<usize>,
    },
    /// Another process has ended with an error code.
    #[error("process {rank} has ended with an error")]
    Failed {
        /// The process.
        rank: usize,
    },
    /// A process has called [`Comm::revoke`](crate::Comm::revoke).
    #[error("a process has ended all communication")]
    Revoked,
    /// The deadline of a wait has passed.
    #[error("the deadline of the communication has passed")]
    Deadline,
    /// MPI has been finalized in this process.
    #[error("communication has ended in this process")]
    Ended,
    /// There is no other process with this rank.
    #[error("process {rank} of {size} cannot exchange messages with process {other}")]
    NoSuchProcess {
        /// The rank of this process.
        rank: usize,
        /// The number of processes.
        size: usize,
        /// The rank that was asked for.
        other: usize,
    },
    /// The received message is shorter than the buffer. (That a message is longer, MPI reports.)
    #[error("a message from process {from} has {received} bytes, but {expected} were expected")]
    Length {
        /// The sender.
        from: usize,
        /// The length of the buffer, or of the part of it that this message fills.
        expected: usize,
        /// The length of the message.
        received: usize,
    },
    /// An operation of all processes is limited to messages of 2 GiB.
    #[error("{bytes} bytes are too many for one operation of all processes")]
    TooLong {
        /// The length of the message.
        bytes: usize,
    },
}

fn lost(rank: Option<usize>) -> String {
    rank.map_or_else(|| "a process".into(), |rank| format!("process {rank}"))
}
