//! Executors: the threads that run op lists.
//!
//! A run executes a [`Job`]: an order of steps, and a body that performs one step. An executor
//! claims any step that is ready on the ranks that it serves. The CPU's ranks are served by a pool
//! that includes the calling thread. Each accelerator has a dedicated executor, so that one thread
//! feeds each device. There is no global clock tick: a step starts as soon as the previous step of
//! its rank and the steps that it waits for are done.
//!
//! All bookkeeping is done under one lock, which is held for tens of nanoseconds per step. If there
//! are enough cores, an idle executor first spins briefly on a counter of changes. Then it sleeps.

#![deny(missing_docs)]
#![forbid(unsafe_code)]

#[cfg(test)]
mod checks;
mod error;
mod job;
mod progress;
mod shared;
mod sync;

pub use error::EngineError;
pub use job::{Job, Link, Local, News};

use std::panic;
use std::process;
use std::sync::Arc;
use std::time::Duration;

use progress::{Ended, Progress};
use shared::{Executor, Run, Shared};
use sync::{JoinHandle, mpsc, thread};

/// How long an idle executor spins before it sleeps. Waking a sleeping thread takes about 20 µs; a
/// spinning thread notices new work after about 0.4 µs.
const SPIN: Duration = Duration::from_micros(50);

/// The threads of a pipeline, for jobs that fail with `E`. Dropping the engine ends and joins its
/// threads.
pub struct Engine<E> {
    shared: Arc<Shared<E>>,
    threads: Vec<JoinHandle<()>>,
    caller: Executor,
    /// The process that has the threads. A forked process has a copy of this struct, but only the
    /// thread that called fork.
    process: u32,
}

impl<E: From<EngineError> + Send + 'static> Engine<E> {
    /// Starts the executors: a pool of at most `cores` threads, including the caller, for
    /// `cpu_ranks`, and one thread for each of `accelerator_ranks`. Each new thread first calls
    /// `start`; all of these calls are over when `new` returns.
    ///
    /// # Errors
    ///
    /// [`EngineError::Thread`] if a thread cannot be started.
    pub fn new(
        cpu_ranks: Vec<usize>,
        accelerator_ranks: Vec<usize>,
        cores: usize,
        start: impl Fn() + Clone + Send + 'static,
    ) -> Result<Self, EngineError> {
        let pool = cpu_ranks.len().min(cores).saturating_sub(1);
        let caller = Executor { ranks: cpu_ranks };
        let helpers = std::iter::repeat_n(caller.clone(), pool);
        let feeders = accelerator_ranks.into_iter().map(|rank| Executor { ranks: vec![rank] });
        let executors: Vec<_> = helpers.chain(feeders).collect();
        let spin = if executors.len() < cores { SPIN } else { Duration::ZERO };
        let shared = Arc::new(Shared::new(spin));
        let mut engine = Self { shared, threads: Vec::new(), caller, process: process::id() };
        let (started, all_started) = mpsc::channel::<()>();
        for (number, executor) in executors.into_iter().enumerate() {
            let (shared, start, started) = (Arc::clone(&engine.shared), start.clone(), started.clone());
            let thread = thread::Builder::new().name(format!("pipe-{number}")).spawn(move || {
                start();
                drop(started);
                shared.serve(&executor);
            });
            engine.threads.push(thread?);
        }
        // Returns when every thread has dropped its sender.
        drop(started);
        let _ = all_started.recv();
        Ok(engine)
    }

    /// The number of threads that run CPU stages concurrently, including the caller.
    pub fn cpu_executors(cpu_ranks: usize, cores: usize) -> usize {
        cpu_ranks.min(cores).max(1)
    }

    /// Runs a job to completion. The calling thread performs steps too. Only one job runs at a
    /// time: a second caller waits for the first.
    ///
    /// # Errors
    ///
    /// * The error of the failed step that is first in the order.
    /// * An error of [`Job::enter`] or [`Job::undo`].
    /// * [`EngineError::Nested`], [`EngineError::Forked`] or [`EngineError::Deadlock`], converted
    ///   to `E`.
    ///
    /// # Panics
    ///
    /// If [`Job::undo`] panics.
    pub fn run(&self, job: Arc<dyn Job<Error = E>>) -> Result<(), E> {
        self.run_with(job, None)
    }

    /// Runs a job as [`run`](Self::run) does, but with `local` performing the steps of one rank on
    /// the calling thread.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    ///
    /// # Panics
    ///
    /// If [`Job::undo`] panics.
    pub fn run_with(&self, job: Arc<dyn Job<Error = E>>, mut local: Option<Local<'_, E>>) -> Result<(), E> {
        let shared = &*self.shared;
        if shared.is_performing_here() {
            return Err(EngineError::Nested.into());
        }
        if self.is_forked() {
            return Err(EngineError::Forked { built: self.process, here: process::id() }.into());
        }
        let _entered = job.enter()?;
        let mut state = shared.lock();
        while state.run.is_some() {
            state = shared.sleep(state);
        }
        state.runs += 1;
        let number = state.runs;
        let progress = Progress::new(job.order(), |rank| job.link().is_some_and(|link| link.is_remote(rank)));
        let over = progress.is_over(job.order());
        let reserved = local.as_ref().map(|local| local.rank);
        state.run = Some(Run { number, job, progress, reserved, over });
        shared.announce(&state);

        let mut last = None;
        loop {
            let (next, step) = shared.step(state, &self.caller, &mut last, local.as_mut());
            state = next;
            if state.run.as_ref().is_some_and(|run| run.over) {
                break;
            }
            if !step {
                state = shared.wait(state);
            }
        }
        let failed = state.run.as_ref().filter(|run| run.progress.has_failed()).map(|run| Arc::clone(&run.job));
        if let Some(job) = failed {
            drop(state);
            let undone = panic::catch_unwind(panic::AssertUnwindSafe(|| job.undo()));
            state = shared.lock();
            match (undone, &mut state.run) {
                (Ok(Err(error)), Some(run)) => run.progress.abort(error),
                (Err(panic), _) => {
                    // Other callers wait until the run is removed.
                    state.run = None;
                    shared.announce(&state);
                    drop(state);
                    panic::resume_unwind(panic);
                }
                _ => {}
            }
        }
        let run = state.run.take();
        shared.announce(&state);
        drop(state);
        match run.map(|run| run.progress.into_result()) {
            None | Some(Ok(())) => Ok(()),
            Some(Err(Ended::Failed(error))) => Err(error),
            Some(Err(Ended::Elsewhere)) => Err(EngineError::Elsewhere.into()),
            Some(Err(Ended::Deadlock(steps))) => Err(EngineError::Deadlock(steps).into()),
        }
    }
}

impl<E> Engine<E> {
    fn is_forked(&self) -> bool {
        self.process != process::id()
    }
}

impl<E> Drop for Engine<E> {
    fn drop(&mut self) {
        if self.is_forked() {
            // A forked process has no threads to wait for. The lock may be held forever by a thread
            // that was not copied.
            self.threads.drain(..).for_each(std::mem::forget);
            return;
        }
        let mut state = self.shared.lock();
        state.closing = true;
        self.shared.announce(&state);
        drop(state);
        for thread in self.threads.drain(..) {
            // A worker may drop the last handle on a pipeline when it frees a graph. It cannot join
            // itself.
            if thread.thread().id() != thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}
