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
mod progress;
mod sync;

use std::any::Any;
use std::cell::RefCell;
use std::io;
use std::panic;
use std::process;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use pipe_schedule::{Action, Order, Step};

use progress::{Ended, Progress};
use sync::{AtomicU64, Condvar, JoinHandle, Mutex, MutexGuard, mpsc, thread};

/// How long an idle executor spins before it sleeps. Waking a sleeping thread takes about 20 µs; a
/// spinning thread notices new work after about 0.4 µs.
const SPIN: Duration = Duration::from_micros(50);

/// The work of a run.
pub trait Job: Send + Sync {
    /// The error with which a step fails.
    type Error;

    /// The steps, and the order in which they may run.
    fn order(&self) -> &Order;

    /// Performs one step. It must catch panics of the step.
    ///
    /// # Errors
    ///
    /// If the step fails. The run then ends with the error of the failed step that is first in the
    /// order.
    fn perform(&self, action: Action) -> Result<(), Self::Error>;

    /// Restores the state that the job has changed. It is called after the job failed and before
    /// another one starts.
    ///
    /// # Errors
    ///
    /// If the state cannot be restored. The run then ends with this error.
    fn undo(&self) -> Result<(), Self::Error> {
        Ok(())
    }

    /// Prepares the current thread to perform steps of this job (modes, intra-op threads). The
    /// returned guard restores the thread when dropped.
    ///
    /// # Errors
    ///
    /// If the thread cannot be prepared. The run then ends with this error.
    fn enter(&self) -> Result<Box<dyn Any>, Self::Error>;

    /// The connection to the processes that perform the steps of other ranks; `None` if this
    /// process performs all steps.
    fn link(&self) -> Option<&dyn Link<Self::Error>> {
        None
    }
}

/// A job's connection to the processes that perform the steps of other ranks.
///
/// An executor that has no step to perform polls it, and the others do so between two steps. One
/// thread polls at a time.
pub trait Link<E>: Sync {
    /// Whether another process performs the steps of this rank.
    fn is_remote(&self, rank: usize) -> bool;

    /// Returns what has happened since the last call, without waiting.
    ///
    /// # Errors
    ///
    /// If the connection is lost. The run then ends with this error.
    fn poll(&self) -> Result<Vec<News>, E>;

    /// Tells the other processes that the step at this position of the order has failed here.
    fn has_failed(&self, step: usize);
}

/// What another process has done. Steps are positions in the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// It has performed a step, and all results of it that this process needs have arrived.
    Arrived(usize),
    /// A step of it has failed.
    Failed(usize),
}

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

struct Shared<E> {
    state: Mutex<State<E>>,
    /// Wakes sleeping executors.
    changed: Condvar,
    /// Counts the changes of `state`. Spinning executors poll it.
    changes: AtomicU64,
    spin: Duration,
    /// Held by the thread that polls the link of the current job.
    polling: Mutex<()>,
}

struct State<E> {
    run: Option<Run<E>>,
    /// The number of runs started so far.
    runs: u64,
    sleeping: usize,
    closing: bool,
}

struct Run<E> {
    number: u64,
    job: Arc<dyn Job<Error = E>>,
    progress: Progress<E>,
    /// The rank that only the caller serves, in [`run_with`](Engine::run_with).
    reserved: Option<usize>,
    /// Set when the run is over and its caller can take it.
    over: bool,
}

/// The steps of one rank, which the calling thread performs itself. Unlike a [`Job`], it may borrow
/// from the caller.
pub struct Local<'a, E> {
    /// The rank.
    pub rank: usize,
    /// Performs a step of the rank, in place of [`Job::perform`].
    pub perform: &'a mut dyn FnMut(Action) -> Result<(), E>,
}

/// The ranks that a thread serves.
#[derive(Clone, Debug)]
struct Executor {
    ranks: Vec<usize>,
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
        let shared = Arc::new(Shared {
            state: Mutex::new(State { run: None, runs: 0, sleeping: 0, closing: false }),
            changed: Condvar::new(),
            changes: AtomicU64::new(0),
            spin,
            polling: Mutex::new(()),
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

sync::thread_local! {
    /// The addresses of the engines that have a step running on this thread, the innermost last. A
    /// step that started another run on one of them would wait for itself.
    static PERFORMING: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

impl<E> Shared<E> {
    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    fn lock(&self) -> MutexGuard<'_, State<E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notifies the other executors of a change. The caller holds the lock, as `state` shows.
    fn announce(&self, state: &State<E>) {
        self.changes.fetch_add(1, Ordering::Release);
        if state.sleeping > 0 {
            self.changed.notify_all();
        }
    }

    /// Waits for a change: polls the job's link, or spins briefly and then sleeps.
    fn wait<'a>(&'a self, state: MutexGuard<'a, State<E>>) -> MutexGuard<'a, State<E>> {
        let linked = state.run.as_ref().filter(|run| !run.over && run.job.link().is_some());
        if let Some(run) = linked {
            // The lock of the state is held, so the thread that polls now cannot have stopped
            // unnoticed. A handle on the job is dropped without the lock: the last one drops the
            // engine.
            let polling = self.polling.try_lock();
            if let Some((polling, number, job)) = polling.ok().map(|guard| (guard, run.number, Arc::clone(&run.job))) {
                let seen = self.changes.load(Ordering::Acquire);
                drop(state);
                let idle = Instant::now();
                while self.changes.load(Ordering::Acquire) == seen {
                    match job.link().map(Link::poll) {
                        Some(Ok(news)) if news.is_empty() => sync::pause(idle.elapsed()),
                        news => {
                            let mut state = self.lock();
                            self.hear(&mut state, number, news);
                            break;
                        }
                    }
                }
                drop(job);
                let state = self.lock();
                drop(polling);
                // Whoever sleeps may have to poll from now on.
                self.announce(&state);
                return state;
            }
            return self.sleep(state);
        }
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

    /// The main loop of an executor: performs steps of the current run until the engine closes.
    fn serve(&self, executor: &Executor) {
        let mut state = self.lock();
        let mut last = None;
        // The run for which preparation was last tried; the guard is `None` if it failed.
        let mut entered: Option<(u64, Option<Box<dyn Any>>)> = None;
        while !state.closing {
            let current = state.run.as_ref().filter(|run| !run.over);
            // The guard is dropped as soon as the job is over, so that an idle worker holds nothing
            // of it.
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

    /// Polls the link of run `number` once, unless another thread does.
    fn glance(&self, number: u64, job: &dyn Job<Error = E>) {
        let Some(link) = job.link() else { return };
        let Ok(polling) = self.polling.try_lock() else { return };
        let news = link.poll();
        let mut state = self.lock();
        drop(polling);
        self.hear(&mut state, number, Some(news));
    }

    /// Applies what the link of run `number` has told.
    fn hear(&self, state: &mut State<E>, number: u64, news: Option<Result<Vec<News>, E>>) {
        let Some(run) = state.run.as_mut().filter(|run| run.number == number && !run.over) else { return };
        match news {
            None => return,
            Some(Ok(news)) if news.is_empty() => return,
            Some(Ok(news)) => news.into_iter().for_each(|news| match news {
                News::Arrived(step) => run.progress.arrived(step),
                News::Failed(step) => run.progress.fail(step, None),
            }),
            Some(Err(error)) => run.progress.abort(error),
        }
        run.over = run.progress.is_over(run.job.order());
        self.announce(state);
    }

    /// Ends run `number` because a thread could not be prepared for it. Does nothing if that run
    /// has already ended, even if another one has begun since.
    fn abort(&self, state: &mut State<E>, number: u64, error: E) {
        if let Some(run) = state.run.as_mut().filter(|run| run.number == number && !run.over) {
            run.progress.abort(error);
            run.over = run.progress.is_over(run.job.order());
            self.announce(state);
        }
    }

    /// Performs one step of the current run, if one is ready for this executor. It prefers the rank
    /// of `local`, then the rank that it served last, whose memory is in its cache. Returns whether
    /// it performed a step.
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
        let number = run.number;
        drop(state);

        PERFORMING.with(|engines| engines.borrow_mut().push(self.address()));
        let result = match local.filter(|local| local.rank == rank) {
            Some(local) => (local.perform)(action),
            None => job.perform(action),
        };
        PERFORMING.with(|engines| engines.borrow_mut().pop());

        if let (Err(_), Some(link)) = (&result, job.link()) {
            link.has_failed(step);
        }
        self.glance(number, &*job);
        let mut state = self.lock();
        if let Some(run) = state.run.as_mut() {
            run.progress.finish(order, step, result);
            run.over = run.progress.is_over(order);
        }
        self.announce(&state);
        (state, true)
    }
}
