//! Jobs of several callers on real threads, for the thread sanitizer (`cargo xtask torture`) and
//! for what the model checker's threads cannot show.

use std::any::Any;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;

use pipe_engine::{Engine, EngineError, Job};
use pipe_schedule::{Action, ActionKind, Order, ScheduleKind};

const RANKS: usize = 3;
const MICRO_BATCHES: usize = 5;

/// Hands a value from step to step, and fails at one of them.
struct Relay {
    order: Order,
    /// What the forward of a micro-batch has left, for its next step.
    values: Vec<Mutex<Option<Box<usize>>>>,
    fails_at: Option<usize>,
    performed: AtomicUsize,
}

impl Relay {
    fn new(kind: ScheduleKind, fails_at: Option<usize>) -> Option<Self> {
        let schedule = kind.schedule(RANKS, 1, MICRO_BATCHES).ok()?;
        let order = schedule.order().expect("it ends");
        let values = (0..MICRO_BATCHES).map(|_| Mutex::new(Some(Box::new(0)))).collect();
        Some(Self { order, values, fails_at, performed: AtomicUsize::new(0) })
    }
}

impl Job for Relay {
    type Error = EngineError;

    fn order(&self) -> &Order {
        &self.order
    }

    fn perform(&self, action: Action) -> Result<(), EngineError> {
        let number = self.performed.fetch_add(1, Relaxed);
        if self.fails_at == Some(number) {
            return Err(EngineError::Nested);
        }
        if action.kind == ActionKind::Forward {
            // No other step of this micro-batch runs at the same time.
            let mut value = self.values[action.micro_batch].try_lock().expect("nobody else has it");
            let mut stages = value.take().expect("the step before has left it");
            assert_eq!(*stages, action.stage);
            *stages += 1;
            *value = Some(stages);
        }
        Ok(())
    }

    fn enter(&self) -> Result<Box<dyn Any>, EngineError> {
        Ok(Box::new(()))
    }

    fn undo(&self) -> Result<(), EngineError> {
        self.values.iter().for_each(|value| *value.lock().expect("no step panics") = Some(Box::new(0)));
        Ok(())
    }
}

#[test]
fn callers_take_turns_on_real_threads() {
    for cores in [1, 2, 4] {
        let engine =
            Arc::new(Engine::<EngineError>::new(vec![0, 1], vec![2], cores, || ()).expect("threads can start"));
        let call = |caller: usize| {
            for (number, kind) in ScheduleKind::ALL.iter().cycle().take(60).enumerate() {
                let fails_at = (number % 3 == caller).then_some(number % 20);
                let Some(job) = Relay::new(*kind, fails_at) else { continue };
                let job = Arc::new(job);
                let outcome = engine.run(job.clone());
                assert_eq!(outcome.is_err(), fails_at.is_some());
                let expected = if fails_at.is_some() { 0 } else { RANKS };
                assert!(job.values.iter().all(|value| **value.lock().unwrap().as_ref().unwrap() == expected));
            }
        };
        thread::scope(|scope| (0..3).for_each(|caller| drop(scope.spawn(move || call(caller)))));
    }
}
