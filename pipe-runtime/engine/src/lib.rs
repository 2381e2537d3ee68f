//! Executors: the threads that run op lists.
//!
//! A run is a [`Job`]: an order of steps, and a body that performs one step. Executors claim any
//! step that is ready on the ranks they serve. A pool of threads serves the CPU's ranks, and the
//! calling thread is one of them. Each accelerator has its own executor, so that one thread feeds
//! each device. There is no global tick: a step starts when the one before it on its rank, and
//! those it waits for, are done.
//!
//! All bookkeeping is under one lock, held for tens of nanoseconds per step. An executor that finds
//! nothing to do spins for a moment on a counter of changes, if there are enough cores, and then
//! sleeps.

#![deny(missing_docs)]
#![forbid(unsafe_code)]

#[cfg(test)]
mod checks;
mod progress;
mod sync;

use std::any::Any;
use std::cell::RefCell;
use std::io;
use std::panic;
use std::process;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use pipe_schedule::{Action, Order, Step};

use progress::{Ended, Progress};
use sync::{AtomicU64, Condvar, JoinHandle, Mutex, MutexGuard, mpsc, thread};

/// How long an executor without work spins before it sleeps. A sleeping thread resumes after some
/// 20 µs, a spinning one after 0.4 µs.
const SPIN: Duration = Duration::from_micros(50);

/// The work of a run.
pub trait Job: Send + Sync {
    /// The error of a step that fails.
    type Error;

    /// Returns the order of the steps.
    fn order(&self) -> &Order;

    /// Performs one step. Panics inside it must have been caught.
    ///
    /// # Errors
    ///
    /// Returns the error of a step that fails. Of several, the run returns the first one in the
    /// order.
    fn perform(&self, action: Action) -> Result<(), Self::Error>;

    /// Puts back what the job has changed, after it failed and before another one starts.
    ///
    /// # Errors
    ///
    /// Returns an error if something cannot be put back. The run then returns this error.
    fn undo(&self) -> Result<(), Self::Error> {
        Ok(())
    }

    /// Prepares the calling thread to perform steps of this job (modes, intra-op threads). The
    /// value that it returns puts everything back when dropped.
    ///
    /// # Errors
    ///
    /// Returns an error if the thread cannot be prepared. That ends the run.
    fn enter(&self) -> Result<Box<dyn Any>, Self::Error>;
}

/// Errors of the engine itself, whatever the job is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The system cannot start another thread.
    #[error("cannot start a worker thread: {0}")]
    Thread(#[from] io::Error),
    /// A step has started a run on the engine that runs it. That run would wait for itself.
    #[error("a layer cannot run the pipeline that it is part of")]
    Nested,
    /// The engine's threads are in the process that this one was forked from.
    #[error(
        "this pipeline was built in process {built}, and this is process {here}, forked from it: its threads have not come along. Build another one here \
         (leaving this one and dropping it are fine)"
    )]
    Forked {
        /// The process that has the threads.
        built: u32,
        /// This process.
        here: u32,
    },
    /// This many steps wait for others that never come.
    #[error("the schedule cannot finish: {0} steps wait for others that never come")]
    Deadlock(usize),
}

/// The threads of a pipeline, for jobs that fail with `E`. Dropping the engine ends and joins them.
pub struct Engine<E> {
    shared: Arc<Shared<E>>,
    threads: Vec<JoinHandle<()>>,
    caller: Executor,
    /// The process that has the threads. In a process forked from it, there is a copy of this, but
    /// only the thread that forked.
    process: u32,
}

struct Shared<E> {
    state: Mutex<State<E>>,
    /// Wakes executors that sleep.
    changed: Condvar,
    /// Counts the changes of `state`. Executors that spin watch this counter.
    changes: AtomicU64,
    spin: Duration,
}

struct State<E> {
    run: Option<Run<E>>,
    /// Numbers the runs.
    runs: u64,
    sleeping: usize,
    closing: bool,
}

struct Run<E> {
    number: u64,
    job: Arc<dyn Job<Error = E>>,
    progress: Progress<E>,
    /// The rank that only the caller serves.
    reserved: Option<usize>,
    /// Set when the run is over, for its caller to take.
    over: bool,
}

/// Work of the calling thread itself: all steps of one rank. Unlike a [`Job`], it may borrow from
/// the caller.
pub struct Local<'a, E> {
    /// The rank.
    pub rank: usize,
    /// Performs a step of that rank, as [`Job::perform`] does.
    pub perform: &'a mut dyn FnMut(Action) -> Result<(), E>,
}

/// The ranks that a thread serves.
#[derive(Clone, Debug)]
struct Executor {
    ranks: Vec<usize>,
}

impl<E: From<EngineError> + Send + 'static> Engine<E> {
    /// Starts the executors: a pool of up to `cores` threads over `cpu_ranks`, the caller included,
    /// and one thread for each of `accelerator_ranks`. Each new thread runs `start` first. All have
    /// done so when this returns.
    ///
    /// # Errors
    ///
    /// Returns [`EngineError::Thread`] if a thread cannot be started.
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
        let shared = Arc::new(Shared {
            state: Mutex::new(State { run: None, runs: 0, sleeping: 0, closing: false }),
            changed: Condvar::new(),
            changes: AtomicU64::new(0),
            spin,
        });
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

    /// Returns how many threads run CPU stages at once, the caller included.
    pub fn cpu_executors(cpu_ranks: usize, cores: usize) -> usize {
        cpu_ranks.min(cores).max(1)
    }

    /// Runs a job to completion, with the help of the calling thread. Jobs run one at a time: a
    /// second caller waits for the first.
    ///
    /// # Errors
    ///
    /// Returns the error of the first step in the order that fails, of a thread that could not be
    /// prepared for the job, or of the job's `undo`. Returns an [`EngineError`], as `E`, if
    ///
    /// * a step of this engine calls this function;
    /// * this process was forked from the one that has the threads;
    /// * steps wait for others that never come.
    ///
    /// # Panics
    ///
    /// Panics if the job panics on the calling thread, or if its order lacks a rank that the
    /// calling thread serves.
    pub fn run(&self, job: Arc<dyn Job<Error = E>>) -> Result<(), E> {
        self.run_with(job, None)
    }

    /// Runs a job as [`run`](Self::run) does, but `local` performs the steps of one rank on the
    /// calling thread.
    ///
    /// # Errors
    ///
    /// Fails as [`run`](Self::run) does.
    ///
    /// # Panics
    ///
    /// Panics if [`run`](Self::run) would, or if `local` does.
    pub fn run_with(&self, job: Arc<dyn Job<Error = E>>, mut local: Option<Local<'_, E>>) -> Result<(), E> {
        let shared = &*self.shared;
        if PERFORMING.with(|engines| engines.borrow().contains(&shared.address())) {
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
        let progress = Progress::new(job.order());
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
                    // Other callers wait until the run is taken.
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
            // The threads are not in this process, so nothing can be waited for, and one of them
            // may have held the lock when the process was forked.
            self.threads.drain(..).for_each(std::mem::forget);
            return;
        }
        let mut state = self.shared.lock();
        state.closing = true;
        self.shared.announce(&state);
        drop(state);
        for thread in self.threads.drain(..) {
            // A worker that frees a graph may drop the last handle on a pipeline. It cannot wait
            // for itself.
            if thread.thread().id() != thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

sync::thread_local! {
    /// The engines whose jobs' steps this thread performs, the innermost last. A step that started
    /// another run on one of them would wait for itself.
    static PERFORMING: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

impl<E> Shared<E> {
    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    fn lock(&self) -> MutexGuard<'_, State<E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the other threads that something changed. The lock must be held.
    fn announce(&self, state: &State<E>) {
        self.changes.fetch_add(1, Ordering::Release);
        if state.sleeping > 0 {
            self.changed.notify_all();
        }
    }

    /// Waits until something changes: spins for a moment, then sleeps.
    fn wait<'a>(&'a self, state: MutexGuard<'a, State<E>>) -> MutexGuard<'a, State<E>> {
        if self.spin.is_zero() {
            return self.sleep(state);
        }
        let seen = self.changes.load(Ordering::Acquire);
        drop(state);
        let changed = || self.changes.load(Ordering::Acquire) != seen;
        let watched = sync::watch(self.spin, changed);
        let state = self.lock();
        if watched || changed() {
            return state;
        }
        self.sleep(state)
    }

    fn sleep<'a>(&'a self, mut state: MutexGuard<'a, State<E>>) -> MutexGuard<'a, State<E>> {
        state.sleeping += 1;
        let mut state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        state.sleeping -= 1;
        state
    }

    /// Runs an executor: performs steps of whatever run there is, until the engine closes.
    fn serve(&self, executor: &Executor) {
        let mut state = self.lock();
        let mut last = None;
        // The run that the thread is prepared for. The guard is `None` if it could not be.
        let mut entered: Option<(u64, Option<Box<dyn Any>>)> = None;
        while !state.closing {
            let current = state.run.as_ref().filter(|run| !run.over);
            // The thread leaves a job's modes as soon as the job is over, so that an idle worker
            // holds nothing of it.
            if entered.as_ref().map(|(number, _)| *number) != current.map(|run| run.number) {
                let next = current.map(|run| (run.number, Arc::clone(&run.job)));
                drop(state);
                drop(entered.take());
                let next = next.map(|(number, job)| (number, job.enter()));
                state = self.lock();
                entered = next.map(|(number, guard)| match guard {
                    Ok(guard) => (number, Some(guard)),
                    Err(error) => {
                        self.abort(&mut state, number, error);
                        (number, None)
                    }
                });
                continue;
            }
            let (next, stepped) = self.step(state, executor, &mut last, None);
            state = next;
            if !stepped && !state.closing {
                state = self.wait(state);
            }
        }
    }

    /// Ends a run because a thread could not be prepared for it. Nothing happens if that run has
    /// ended without the thread, even if another one has begun.
    fn abort(&self, state: &mut State<E>, number: u64, error: E) {
        if let Some(run) = state.run.as_mut().filter(|run| run.number == number && !run.over) {
            run.progress.abort(error);
            run.over = run.progress.is_over(run.job.order());
            self.announce(state);
        }
    }

    /// Performs one step of the current run, if one is ready for this executor. It prefers the rank
    /// that the executor alone serves, then the one it served last, whose memory is in its cache.
    fn step<'a>(
        &'a self,
        mut state: MutexGuard<'a, State<E>>,
        executor: &Executor,
        last: &mut Option<usize>,
        local: Option<&mut Local<'_, E>>,
    ) -> (MutexGuard<'a, State<E>>, bool) {
        let Some(run) = state.run.as_mut().filter(|run| !run.over) else { return (state, false) };
        let job = Arc::clone(&run.job);
        let order = job.order();
        let own = local.as_ref().map(|local| local.rank);
        let reserved = run.reserved;
        let others = last.iter().chain(&executor.ranks).copied().filter(|&rank| Some(rank) != reserved);
        let Some(step) = run.progress.start(order, own.into_iter().chain(others)) else { return (state, false) };
        let Step { action, rank, .. } = order.steps[step];
        *last = Some(rank);
        drop(state);

        PERFORMING.with(|engines| engines.borrow_mut().push(self.address()));
        let result = match local.filter(|local| local.rank == rank) {
            Some(local) => (local.perform)(action),
            None => job.perform(action),
        };
        PERFORMING.with(|engines| engines.borrow_mut().pop());

        let mut state = self.lock();
        if let Some(run) = state.run.as_mut() {
            run.progress.finish(order, step, result);
            run.over = run.progress.is_over(order);
        }
        self.announce(&state);
        (state, true)
    }
}
