//! Measures what it costs to hand steps from rank to rank, with nothing done in them:
//! `cargo bench -p pipe-engine`.
//!
//! Each step of a rank waits for one of the rank before it. With two threads, each waits for the
//! other all the time. One thread takes all steps in turn.

use std::any::Any;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pipe_engine::{Engine, EngineError, Job};
use pipe_schedule::{Action, Order, ScheduleKind};

const RANKS: usize = 2;

struct Nothing(Order);

impl Job for Nothing {
    type Error = EngineError;

    fn order(&self) -> &Order {
        &self.0
    }

    fn perform(&self, _action: Action) -> Result<(), EngineError> {
        Ok(())
    }

    fn enter(&self) -> Result<Box<dyn Any>, EngineError> {
        Ok(Box::new(()))
    }
}

fn hand_off(criterion: &mut Criterion) {
    for threads in [1, 2] {
        let engine = Engine::new((0..RANKS).collect(), Vec::new(), threads, || ()).expect("threads can be started");
        let mut group = criterion.benchmark_group(format!("hand-off, {threads} threads"));
        for micro_batches in [4, 64, 256] {
            let schedule = ScheduleKind::OneFOneB.schedule(RANKS, 1, micro_batches).expect("it is legal");
            let order = schedule.order().expect("it ends");
            group.throughput(Throughput::Elements(order.steps.len() as u64));
            let job = Arc::new(Nothing(order));
            group.bench_function(BenchmarkId::from_parameter(micro_batches), |bencher| {
                bencher.iter(|| engine.run(job.clone()).expect("nothing fails"));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, hand_off);
criterion_main!(benches);
