//! Executors: the threads that run lists of actions.
//!
//! A run is a [`Job`]: an order of steps, and a function that performs a step. Executors take any
//! step that is ready on the ranks that they serve. The CPU's ranks are served by a pool, which
//! includes the calling thread; each accelerator has its own executor, so that one thread feeds
//! each device. There is no global tick: a step starts when the step before it on its rank, and the
//! steps that it waits for, have ended.
//!
//! One lock guards all state, and is held for tens of nanoseconds per step. An executor that finds
//! no work watches a counter of changes for a moment, if there are enough cores, and then sleeps.

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

/// How long an executor without work watches for changes before it sleeps. A thread that sleeps
/// needs about 20 µs to continue, one that watches 0.4 µs.
const SPIN: Duration = Duration::from_micros(50);

/// The work of a run.
pub trait Job: Send + Sync {
    /// The error of a failed step.
    type Error;

    /// The steps.
    fn order(&self) -> &Order;

    /// Performs a step. Panics must be caught inside.
    ///
    /// # Errors
    ///
    /// Fails if the step fails.
    fn perform(&self, action: Action) -> Result<(), Self::Error>;

    /// Undoes the changes of the job, after it failed and before another one starts.
    ///
    /// # Errors
    ///
    /// Fails if a change cannot be undone.
    fn undo(&self) -> Result<(), Self::Error> {
        Ok(())
    }

    /// Prepares a thread that will perform steps of this job (modes, intra-op threads). The
    /// returned value restores everything when dropped.
    ///
    /// # Errors
    ///
    /// Fails if the thread cannot be prepared, which ends the run.
    fn enter(&self) -> Result<Box<dyn Any>, Self::Error>;
}

/// An error of the engine, independent of the job.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The system cannot start another thread.
    #[error("cannot start a worker thread: {0}")]
    Thread(#[from] io::Error),
    /// A step has started a run of its own engine, and would wait for itself.
    #[error("a layer cannot run the pipeline that it is part of")]
    Nested,
    /// The engine's threads are in the process that this process was forked from.
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
    /// This many steps wait for steps that never end.
    #[error("the schedule cannot finish: {0} steps wait for others that never come")]
    Deadlock(usize),
}

/// The threads of a pipeline, for jobs that fail with `E`. Dropping it ends and joins them.
pub struct Engine<E> {
    shared: Arc<Shared<E>>,
    threads: Vec<JoinHandle<()>>,
    caller: Executor,
    /// The process that has the threads. A forked process has a copy of this, and only one thread.
    process: u32,
}

struct Shared<E> {
    state: Mutex<State<E>>,
    /// Wakes sleeping executors.
    changed: Condvar,
    /// Counts the changes of `state`, for executors that watch.
    changes: AtomicU64,
    spin: Duration,
}

struct State<E> {
    run: Option<Run<E>>,
    /// The number of the run.
    runs: u64,
    sleeping: usize,
    closing: bool,
}

struct Run<E> {
    number: u64,
    job: Arc<dyn Job<Error = E>>,
    progress: Progress<E>,
    /// The rank that only the calling thread serves.
    reserved: Option<usize>,
    /// Set when the run is over; the caller takes it.
    over: bool,
}

/// The part of a run that the calling thread performs: all steps of one rank. Unlike a [`Job`], it
/// may borrow from the caller.
pub struct Local<'a, E> {
    /// The rank.
    pub rank: usize,
    /// Performs a step of the rank, as [`Job::perform`] does.
    pub perform: &'a mut dyn FnMut(Action) -> Result<(), E>,
}

/// The ranks that a thread serves.
#[derive(Clone, Debug)]
struct Executor {
    ranks: Vec<usize>,
}

impl<E: From<EngineError> + Send + 'static> Engine<E> {
    /// Starts the executors for these ranks: a pool of at most `cores` threads, including the
    /// caller, for `cpu_ranks`, and one thread for each of `accelerator_ranks`. Each new thread
    /// runs `start` first; all have done so when this returns.
    ///
    /// # Errors
    ///
    /// Fails if the system cannot start a thread.
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
        // This loop ends when every thread has dropped its sender.
        drop(started);
        let _ = all_started.recv();
        Ok(engine)
    }

    /// The number of threads that run CPU stages at the same time, including the caller.
    pub fn cpu_executors(cpu_ranks: usize, cores: usize) -> usize {
        cpu_ranks.min(cores).max(1)
    }

    /// Runs a job to completion, with the calling thread as an executor. Jobs run one at a time: a
    /// second caller waits for the first.
    ///
    /// # Errors
    ///
    /// Fails if a step fails, if steps wait for each other, or if the engine cannot run here.
    pub fn run(&self, job: Arc<dyn Job<Error = E>>) -> Result<(), E> {
        self.run_with(job, None)
    }

    /// Runs a job as [`run`](Self::run) does, where `local` performs the steps of one rank on the
    /// calling thread.
    ///
    /// # Errors
    ///
    /// Fails in the same cases as [`run`](Self::run).
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
            // There is no thread to wait for, and a thread that does not exist here may have held a
            // lock.
            self.threads.drain(..).for_each(std::mem::forget);
            return;
        }
        let mut state = self.shared.lock();
        state.closing = true;
        self.shared.announce(&state);
        drop(state);
        for thread in self.threads.drain(..) {
            // A worker may drop the last handle to a pipeline when it frees a graph. It cannot wait
            // for itself.
            if thread.thread().id() != thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

sync::thread_local! {
    /// The engines whose steps this thread is performing, the innermost last. A step that starts
    /// another run of one of them would wait for itself.
    static PERFORMING: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

impl<E> Shared<E> {
    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    fn lock(&self) -> MutexGuard<'_, State<E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notifies other threads of a change. The lock is held.
    fn announce(&self, state: &State<E>) {
        self.changes.fetch_add(1, Ordering::Release);
        if state.sleeping > 0 {
            self.changed.notify_all();
        }
    }

    /// Waits for a change: watches for a moment, then sleeps.
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

    /// The loop of an executor: performs steps of any run until the engine closes.
    fn serve(&self, executor: &Executor) {
        let mut state = self.lock();
        let mut last = None;
        // The run for which the thread was prepared, or could not be.
        let mut entered: Option<(u64, Option<Box<dyn Any>>)> = None;
        while !state.closing {
            let current = state.run.as_ref().filter(|run| !run.over);
            // The thread leaves a job's modes as soon as the job is over, so that an idle thread
            // keeps nothing of it alive.
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

    /// Ends a run because a thread could not be prepared for it. If the run has ended without that
    /// thread, and another one has begun, nothing happens.
    fn abort(&self, state: &mut State<E>, number: u64, error: E) {
        if let Some(run) = state.run.as_mut().filter(|run| run.number == number && !run.over) {
            run.progress.abort(error);
            run.over = run.progress.is_over(run.job.order());
            self.announce(state);
        }
    }

    /// Performs one step of the current run, if one is ready for this executor. It prefers the rank
    /// that only it serves, then the rank that it served last, whose memory is in its cache.
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
