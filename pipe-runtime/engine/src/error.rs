use std::io;

/// An error of the engine itself, independent of the job.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The system cannot start another thread.
    #[error("cannot start a worker thread: {0}")]
    Thread(#[from] io::Error),
    /// A step started another run on the engine that performs the step, so it would wait for
    /// itself.
    #[error("a layer cannot run the pipeline that it is part of")]
    Nested,
    /// The engine was built in the process from which this one was forked. Its threads exist only
    /// there.
    #[error(
        "this pipeline was built in process {built}, and this is process {here}, forked from it: its threads have not come along. Build another one here \
         (leaving this one and dropping it are fine)"
    )]
    Forked {
        /// The process that built the engine.
        built: u32,
        /// This process.
        here: u32,
    },
    /// The order of steps cannot finish. The field is the number of steps that wait for others
    /// forever.
    #[error("the schedule cannot finish: {0} steps wait for others that never come")]
    Deadlock(usize),
    /// A step of another process failed. That process has the error.
    #[error("a step of another process failed")]
    Elsewhere,
}
