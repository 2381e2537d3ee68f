//! Tests the engine with a model checker, [shuttle](https://docs.rs/shuttle). Each test runs a
//! small case thousands of times, and the checker decides at each lock, counter and wait which
//! thread continues. A deadlock, for example by a lost wake-up, fails the test with a schedule to
//! replay. Seeds are fixed.

mod case;
mod history;
mod job;
mod link;

use std::sync::Arc;

use pipe_schedule::gpipe;
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, Runner, thread};

use crate::{Engine, EngineError, Local};
use case::{Case, draw, engine, order};
use history::History;
use job::{Checked, Error, Faults};

/// The number of iterations of each test with each scheduler.
const ITERATIONS: usize = 1500;
const SEED: u64 = 7;

/// Runs `body` with a scheduler that picks threads at random, and with one that follows random
/// thread priorities, which rarely change (PCT, Burckhardt et al. 2010). The latter finds errors
/// that need long delays.
fn explore(body: fn()) {
    fn run(scheduler: impl Scheduler + 'static, body: fn()) {
        let mut config = Config::new();
        config.stack_size = 1 << 17;
        // shuttle warns that it models only sequentially consistent atomics. The engine has one
        // counter, which is changed only under a lock.
        config.silence_warnings = true;
        Runner::new(scheduler, config).run(body);
    }
    run(RandomScheduler::new_from_seed(SEED, ITERATIONS), body);
    run(PctScheduler::new_from_seed(SEED, 3, ITERATIONS), body);
}

fn run(engine: &Engine<Error>, job: &Arc<Checked>) -> Result<(), Error> {
    let mut perform = |action| job.perform_step(action, true);
    engine.run_with(job.clone(), job.local.map(|rank| Local { rank, perform: &mut perform }))
}

/// Runs several callers concurrently, each with several jobs in sequence, and then drops the
/// engine. Checks the recorded history.
fn check(callers: usize, jobs_each: usize, faults: fn(steps: usize) -> Faults) {
    let history = Arc::new(History::default());
    let case = Case::draw();
    let engine = Arc::new(case.engine());
    let callers: Vec<_> = (0..callers)
        .map(|caller| {
            let jobs: Vec<_> = (caller * jobs_each..(caller + 1) * jobs_each)
                .map(|number| {
                    let order = case.order.clone();
                    let faults = faults(order.steps.len());
                    Arc::new(Checked::new(number, order, faults, case.local(), &history))
                })
                .collect();
            let engine = Arc::clone(&engine);
            thread::spawn(move || jobs.into_iter().map(|job| (run(&engine, &job), job)).collect::<Vec<_>>())
        })
        .collect();
    let returned: Vec<_> = callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect();
    drop(engine);
    history.check_serial();
    for (outcome, job) in &returned {
        history.check_job(job, outcome);
    }
}

fn some_steps(steps: usize) -> Faults {
    Faults { steps: (0..draw(1..=3)).map(|_| draw(0..=steps - 1)).collect(), ..Faults::default() }
}

#[test]
fn every_step_runs_once_after_those_it_waits_for() {
    explore(|| check(1, 2, |_| Faults::default()));
}

#[test]
fn the_first_failure_in_the_order_counts_and_the_job_is_undone() {
    explore(|| check(1, 2, some_steps));
}

#[test]
fn a_worker_that_cannot_be_prepared_ends_its_own_run_only() {
    explore(|| check(1, 3, |_| Faults { enter: draw(0..=1) == 1, ..Faults::default() }));
}

#[test]
fn callers_take_turns() {
    explore(|| check(2, 2, |_| Faults::default()));
}

#[test]
fn callers_take_turns_whatever_fails() {
    explore(|| {
        check(3, 1, |steps| match draw(0..=3) {
            0 => Faults::default(),
            1 => some_steps(steps),
            2 => Faults { enter: true, ..some_steps(steps) },
            _ => Faults { undo: true, enter: draw(0..=1) == 1, ..some_steps(steps) },
        });
    });
}

#[test]
fn a_job_whose_steps_wait_for_ever_is_undone_and_refused() {
    explore(|| {
        let history = Arc::new(History::default());
        let mut order = gpipe(&[0, 1], 2, |_| false).order().unwrap();
        let step = draw(0..=order.steps.len() - 1);
        order.steps[step].after.push(step);
        let engine = engine(vec![0], vec![1], draw(1..=2));
        let job = Arc::new(Checked::new(0, order, Faults::default(), None, &history));
        let outcome = run(&engine, &job);
        drop(engine);
        assert!(matches!(outcome, Err(Error::Refused(EngineError::Deadlock(1..)))), "{outcome:?}");
        history.check_job(&job, &outcome);
    });
}

#[test]
fn a_job_may_keep_its_engine_alive_but_not_run_on_it() {
    explore(|| {
        let history = Arc::new(History::default());
        let alive = Arc::new(());
        let token = Arc::clone(&alive);
        let start = move || {
            let _held = &token;
        };
        let engine = Arc::new(Engine::new(vec![0, 1], vec![2], draw(1..=3), start).unwrap());
        let mut job = Checked::new(0, order(3, 2), Faults::default(), None, &history);
        job.engine = Some(Arc::clone(&engine));
        engine.run(Arc::new(job)).unwrap();
        drop(engine);
        // A worker may hold the job, and thereby the engine, a little longer. Each worker holds the
        // token until it ends.
        while Arc::strong_count(&alive) > 1 {
            thread::yield_now();
        }
    });
}

#[test]
fn an_engine_without_work_ends() {
    explore(|| drop(Case::draw().engine()));
}
