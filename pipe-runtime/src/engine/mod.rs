//! Executors: the threads that run op lists.
//!
//! A run is a [`Job`]: an order of steps and a body that performs one. Executors claim whatever step is ready on the ranks they serve: the CPU's ranks
//! are served by a pool, the calling thread among it; each accelerator has an executor of its own, so that one thread feeds
//! each device. There is no global tick: a step starts when the one before it on its rank, and those it waits
//! for, are done.
//!
//! All bookkeeping is under one lock, held for tens of nanoseconds per step. Who finds nothing to do spins for a moment on
//! a counter of changes, where there are cores enough, and then sleeps.

mod progress;

use std::cell::Cell;
use std::hint::spin_loop;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use pipe_schedule::{Action, Order};

pub(crate) use progress::Ended;
use progress::Progress;

use crate::{Error, Failure, Result};

/// How long an executor without work watches for some before it sleeps. A woken thread is back after some 20 µs, a watching one after 0.4.
const SPIN: Duration = Duration::from_micros(50);

/// What a run does.
pub(crate) trait Job: Send + Sync {
    /// The steps.
    fn order(&self) -> &Order;

    /// Performs one. Panics inside it must have been caught.
    fn perform(&self, action: Action) -> Result<(), Failure>;

    /// Prepares the thread that is about to perform steps of this job (modes, intra-op threads); what it returns puts everything back when dropped.
    fn enter(&self) -> Result<Box<dyn std::any::Any>>;
}

/// The threads of a pipeline. Dropping it ends and joins them.
pub(crate) struct Engine {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    caller: Executor,
}

struct Shared {
    state: Mutex<State>,
    /// Wakes executors that sleep.
    changed: Condvar,
    /// Counts the changes of `state`: what watching executors watch.
    changes: AtomicU64,
    spin: Duration,
}

#[derive(Default)]
struct State {
    run: Option<Run>,
    /// Numbers the runs.
    runs: u64,
    sleeping: usize,
    closing: bool,
}

struct Run {
    number: u64,
    job: Arc<dyn Job>,
    progress: Progress<Error>,
    /// Set when it is over, for its caller to take.
    over: bool,
}

/// The ranks that a thread serves.
#[derive(Clone, Debug)]
struct Executor {
    ranks: Vec<usize>,
}

impl Engine {
    /// Starts the executors for these ranks: a pool over `cpu_ranks` of at most `cores` threads, the caller included, and one thread for each of
    /// `accelerator_ranks`. `start` is run first on each new thread; all have done so on return.
    pub(crate) fn new(
        cpu_ranks: Vec<usize>,
        accelerator_ranks: Vec<usize>,
        cores: usize,
        start: impl Fn() + Clone + Send + 'static,
    ) -> Result<Self> {
        let pool = cpu_ranks.len().min(cores).saturating_sub(1);
        let caller = Executor { ranks: cpu_ranks };
        let helpers = std::iter::repeat_n(caller.clone(), pool);
        let feeders = accelerator_ranks.into_iter().map(|rank| Executor { ranks: vec![rank] });
        let executors: Vec<_> = helpers.chain(feeders).collect();
        let spin = if executors.len() < cores { SPIN } else { Duration::ZERO };
        let shared =
            Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), changes: AtomicU64::new(0), spin });
        let mut engine = Self { shared, threads: Vec::new(), caller };
        let (started, all_started) = mpsc::channel::<()>();
        for (number, executor) in executors.into_iter().enumerate() {
            let (shared, start, started) = (Arc::clone(&engine.shared), start.clone(), started.clone());
            let thread = thread::Builder::new().name(format!("pipe-{number}")).spawn(move || {
                start();
                drop(started);
                shared.serve(&executor);
            });
            let thread = thread.map_err(|error| Error::Setting(format!("cannot start a worker thread: {error}")))?;
            engine.threads.push(thread);
        }
        // Ends when every thread has dropped its sender.
        drop(started);
        let _ = all_started.recv();
        Ok(engine)
    }

    /// How many threads run CPU stages at once, the caller included.
    pub(crate) fn cpu_executors(cpu_ranks: usize, cores: usize) -> usize {
        cpu_ranks.min(cores).max(1)
    }

    /// Runs a job to its end, the calling thread helping. One job at a time: a second caller waits for the first.
    pub(crate) fn run(&self, job: Arc<dyn Job>) -> Result<()> {
        let shared = &*self.shared;
        if PERFORMING.get() == shared.address() {
            return Err(Error::Setting("a layer cannot run the pipeline that it is part of".into()));
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
        state.run = Some(Run { number, job, progress, over });
        shared.announce(&state);

        let mut last = None;
        loop {
            let (next, step) = shared.step(state, &self.caller, &mut last);
            state = next;
            if state.run.as_ref().is_some_and(|run| run.over) {
                break;
            }
            if !step {
                state = shared.wait(state);
            }
        }
        let run = state.run.take();
        shared.announce(&state);
        drop(state);
        match run.map(|run| run.progress.into_result()) {
            None | Some(Ok(())) => Ok(()),
            Some(Err(Ended::Failed(error))) => Err(error),
            Some(Err(Ended::Stuck(steps))) => Err(Error::Setting(format!(
                "the schedule cannot finish: {steps} steps wait for others that never come"
            ))),
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.closing = true;
        self.shared.announce(&state);
        drop(state);
        for thread in self.threads.drain(..) {
            // The last handle on a pipeline may be dropped by a graph that a worker frees: it cannot wait for itself.
            if thread.thread().id() != thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

thread_local! {
    /// The engine of whose job this thread performs a step; 0 for none. A step that started another run of its own engine would wait for itself.
    static PERFORMING: Cell<usize> = const { Cell::new(0) };
}

impl Shared {
    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the others that something changed. The lock is held.
    fn announce(&self, state: &State) {
        self.changes.fetch_add(1, Ordering::Release);
        if state.sleeping > 0 {
            self.changed.notify_all();
        }
    }

    /// Until something changes: watches for a moment, then sleeps.
    fn wait<'a>(&'a self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        if self.spin.is_zero() {
            return self.sleep(state);
        }
        let seen = self.changes.load(Ordering::Acquire);
        drop(state);
        let start = Instant::now();
        loop {
            for _ in 0..64 {
                if self.changes.load(Ordering::Acquire) != seen {
                    return self.lock();
                }
                spin_loop();
            }
            if start.elapsed() > self.spin {
                break;
            }
        }
        let state = self.lock();
        if self.changes.load(Ordering::Acquire) != seen {
            return state;
        }
        self.sleep(state)
    }

    fn sleep<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state.sleeping += 1;
        let mut state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        state.sleeping -= 1;
        state
    }

    /// An executor's life: performs steps of whatever run there is, until the engine closes.
    fn serve(&self, executor: &Executor) {
        let mut state = self.lock();
        let mut last = None;
        let mut entered: Option<(u64, Box<dyn std::any::Any>)> = None;
        while !state.closing {
            let current = state.run.as_ref().filter(|run| !run.over).map(|run| run.number);
            // A job's modes are left as soon as it is over, so that an idle worker holds nothing of it.
            if entered.as_ref().map(|(number, _)| *number) != current {
                let job = current.and_then(|_| state.run.as_ref()).map(|run| Arc::clone(&run.job));
                drop(state);
                drop(entered.take());
                let guard = job.map(|job| job.enter());
                state = self.lock();
                match (guard, &mut state.run) {
                    (Some(Ok(guard)), _) => entered = current.map(|number| (number, guard)),
                    (Some(Err(error)), Some(run)) => {
                        run.progress.abort(error);
                        run.over = run.progress.is_over(run.job.order());
                        self.announce(&state);
                    }
                    _ => {}
                }
                continue;
            }
            let (next, stepped) = self.step(state, executor, &mut last);
            state = next;
            if !stepped && !state.closing {
                state = self.wait(state);
            }
        }
    }

    /// Performs one step of the current run, if one is ready for this executor: rather on the rank it served last, whose memory is in its cache.
    fn step<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        executor: &Executor,
        last: &mut Option<usize>,
    ) -> (MutexGuard<'a, State>, bool) {
        let Some(run) = state.run.as_mut().filter(|run| !run.over) else { return (state, false) };
        let job = Arc::clone(&run.job);
        let order = job.order();
        let preferred = last.iter().chain(&executor.ranks).copied();
        let Some(step) = run.progress.start(order, preferred) else { return (state, false) };
        *last = Some(order.steps[step].rank);
        drop(state);

        let outer = PERFORMING.replace(self.address());
        let result = job.perform(order.steps[step].action);
        PERFORMING.set(outer);

        let mut state = self.lock();
        if let Some(run) = state.run.as_mut() {
            run.progress.finish(order, step, result.map_err(Error::from));
            run.over = run.progress.is_over(order);
        }
        self.announce(&state);
        (state, true)
    }
}
