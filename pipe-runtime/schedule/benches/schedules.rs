//! Measures how the time to make, order, validate and simulate a schedule grows with its number of
//! actions: `cargo bench -p pipe-schedule`.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pipe_schedule::{Costs, Limits, ScheduleKind, simulate};

const RANKS: usize = 8;

fn schedules(criterion: &mut Criterion) {
    for kind in [ScheduleKind::OneFOneB, ScheduleKind::ZbH1] {
        let mut group = criterion.benchmark_group(kind.name());
        for micro_batches in [16, 64, 256] {
            let make = || kind.schedule(RANKS, 1, micro_batches).expect("it is legal");
            let schedule = make();
            let limits = Limits::of(kind, RANKS, 1, micro_batches).expect("it is legal");
            let costs = Costs::equal(RANKS, 1., 1., 1.);
            let actions: usize = schedule.ranks.iter().map(Vec::len).sum();
            group.throughput(Throughput::Elements(actions as u64));
            let id = |what| BenchmarkId::new(what, micro_batches);
            group.bench_function(id("made"), |bencher| bencher.iter(make));
            group.bench_function(id("ordered"), |bencher| bencher.iter(|| black_box(&schedule).order()));
            group.bench_function(id("validated"), |bencher| bencher.iter(|| black_box(&schedule).validate(&limits)));
            group.bench_function(id("simulated"), |bencher| bencher.iter(|| simulate(black_box(&schedule), &costs)));
        }
        group.finish();
    }
}

criterion_group!(benches, schedules);
criterion_main!(benches);
