//! What the threads of an engine share, and what each of them does.

use std::any::Any;
use std::cell::RefCell;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use pipe_schedule::Step;

use crate::job::{Job, Local, News};
use crate::progress::Progress;
use crate::sync::{self, AtomicU64, Condvar, Mutex, MutexGuard};

pub(crate) struct Shared<E> {
    state: Mutex<State<E>>,
    /// Wakes sleeping executors.
    changed: Condvar,
    /// Counts the changes of `state`. Spinning executors poll it.
    changes: AtomicU64,
    spin: Duration,
    /// Held by the thread that polls the link of the current job.
    polling: Mutex<()>,
}

pub(crate) struct State<E> {
    pub(crate) run: Option<Run<E>>,
    /// The number of runs started so far.
    pub(crate) runs: u64,
    sleeping: usize,
    pub(crate) closing: bool,
}

pub(crate) struct Run<E> {
    pub(crate) number: u64,
    pub(crate) job: Arc<dyn Job<Error = E>>,
    pub(crate) progress: Progress<E>,
    /// The rank that only the caller serves, in [`run_with`](Engine::run_with).
    pub(crate) reserved: Option<usize>,
    /// Set when the run is over and its caller can take it.
    pub(crate) over: bool,
}

/// The ranks that a thread serves.
#[derive(Clone, Debug)]
pub(crate) struct Executor {
    pub(crate) ranks: Vec<usize>,
}

sync::thread_local! {
    /// The addresses of the engines that have a step running on this thread, the innermost last. A
    /// step that started another run on one of them would wait for itself.
    static PERFORMING: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

impl<E> Shared<E> {
    pub(crate) fn new(spin: Duration) -> Self {
        Self {
            state: Mutex::new(State { run: None, runs: 0, sleeping: 0, closing: false }),
            changed: Condvar::new(),
            changes: AtomicU64::new(0),
            spin,
            polling: Mutex::new(()),
        }
    }

    /// Whether this thread is performing a step of this engine.
    pub(crate) fn is_performing_here(&self) -> bool {
        PERFORMING.with(|engines| engines.borrow().contains(&self.address()))
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State<E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notifies the other executors of a change. The caller holds the lock, as `state` shows.
    pub(crate) fn announce(&self, state: &State<E>) {
        self.changes.fetch_add(1, Ordering::Release);
        if state.sleeping > 0 {
            self.changed.notify_all();
        }
    }

    /// Waits for a change: polls the job's link, or spins briefly and then sleeps.
    pub(crate) fn wait<'a>(&'a self, state: MutexGuard<'a, State<E>>) -> MutexGuard<'a, State<E>> {
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
                    let Some(link) = job.link() else { break };
                    let news = link.poll();
                    if matches!(&news, Ok(news) if news.is_empty()) {
                        link.pause(idle.elapsed());
                        continue;
                    }
                    let mut state = self.lock();
                    self.hear(&mut state, number, news);
                    break;
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

    pub(crate) fn sleep<'a>(&'a self, mut state: MutexGuard<'a, State<E>>) -> MutexGuard<'a, State<E>> {
        state.sleeping += 1;
        let mut state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        state.sleeping -= 1;
        state
    }

    /// The main loop of an executor: performs steps of the current run until the engine closes.
    pub(crate) fn serve(&self, executor: &Executor) {
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
        self.hear(&mut state, number, news);
    }

    /// Applies what the link of run `number` has told.
    fn hear(&self, state: &mut State<E>, number: u64, news: Result<Vec<News>, E>) {
        let Some(run) = state.run.as_mut().filter(|run| run.number == number && !run.over) else { return };
        match news {
            Ok(news) if news.is_empty() => return,
            Ok(news) => news.into_iter().for_each(|news| match news {
                News::Arrived(step) => run.progress.arrived(step),
                News::Failed(step) => run.progress.fail(step, None),
            }),
            Err(error) => run.progress.abort(error),
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
    pub(crate) fn step<'a>(
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
