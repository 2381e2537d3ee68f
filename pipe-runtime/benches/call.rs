//! The pieces of a call, in layers that do nothing: `cargo bench -p pipe-runtime`.
//!
//! Each benchmark has one piece more than the one before it, per micro-batch; the difference is
//! what the piece costs.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pipe_runtime::{Checkpoint, Devices, List, Pipe, PipeBuilder, Pipeline, ScheduleKind, pipeline};
use tch::nn::{Module, OptimizerConfig};
use tch::{Device, Kind, Tensor, nn};

const MICRO_BATCHES: [usize; 3] = [4, 64, 256];

/// Gives what it takes.
#[derive(Debug)]
struct Identity;

impl Module for Identity {
    fn forward(&self, x: &Tensor) -> Tensor {
        x.shallow_clone()
    }
}

/// Multiplies by a vector: the least that has a gradient.
#[derive(Debug)]
struct Scale(Tensor);

impl Module for Scale {
    fn forward(&self, x: &Tensor) -> Tensor {
        x * &self.0
    }
}

/// Its output stays in parts.
struct Parts;

impl pipe_runtime::Layer<Tensor> for Parts {
    type Out = List<Tensor>;

    fn run(&self, x: Tensor, _cx: &pipe_runtime::Context) -> List<Tensor> {
        List(vec![x])
    }
}

#[pipeline(output = List<Tensor>, allow(single_stage))]
struct Scattered {
    #[device("cpu")]
    parts: Parts,
}

#[pipeline(allow(single_stage))]
struct One {
    #[device("cpu")]
    only: Identity,
}

#[pipeline]
struct Two {
    #[device("cpu")]
    first: Identity,
    #[device("cpu")]
    second: Identity,
}

#[pipeline]
struct Trained {
    #[device("cpu")]
    first: Scale,
    #[device("cpu")]
    second: Scale,
}

/// On the CPU, with one intra-op thread and nothing checkpointed.
fn pipe<M: Pipeline>(model: M, vars: &pipe_runtime::Vars, chunks: usize, schedule: ScheduleKind) -> Pipe<M> {
    let builder = PipeBuilder::new(model, vars).chunks(chunks).schedule(schedule).checkpoint(Checkpoint::Never);
    builder.intra_op_threads(1).build().expect("the settings are legal")
}

fn rows(count: usize) -> Tensor {
    Tensor::ones([count as i64, 4], (Kind::Float, Device::Cpu))
}

/// Benchmarks a call for several numbers of micro-batches, of one row each.
fn bench<F: FnMut()>(criterion: &mut Criterion, piece: &str, prepare: impl Fn(usize, Tensor) -> F) {
    tch::set_num_threads(1);
    let mut group = criterion.benchmark_group(piece);
    for chunks in MICRO_BATCHES {
        let mut call = prepare(chunks, rows(chunks));
        group.throughput(Throughput::Elements(chunks as u64));
        group.bench_function(BenchmarkId::from_parameter(chunks), |bencher| bencher.iter(&mut call));
    }
    group.finish();
}

/// Splitting the mini-batch, and one op for each micro-batch.
fn scatter_and_dispatch(criterion: &mut Criterion) {
    let vars = Scattered::vars(&Devices::cpu(1)).expect("as many devices as stages");
    bench(criterion, "scatter_and_dispatch", |chunks, input| {
        let mut pipe = pipe(Scattered { parts: Parts }, &vars, chunks, ScheduleKind::GPipe);
        move || drop(tch::no_grad(|| pipe.forward(&input)).expect("nothing fails"))
    });
}

/// And joining the outputs.
fn gather(criterion: &mut Criterion) {
    let vars = One::vars(&Devices::cpu(1)).expect("as many devices as stages");
    bench(criterion, "gather", |chunks, input| {
        let mut pipe = pipe(One { only: Identity }, &vars, chunks, ScheduleKind::GPipe);
        move || drop(tch::no_grad(|| pipe.forward(&input)).expect("nothing fails"))
    });
}

/// And a second stage: one more op, what is sent between the two, and the threads that find their
/// work.
fn second_stage(criterion: &mut Criterion) {
    let vars = Two::vars(&Devices::cpu(2)).expect("as many devices as stages");
    bench(criterion, "second_stage", |chunks, input| {
        let mut pipe = pipe(Two { first: Identity, second: Identity }, &vars, chunks, ScheduleKind::GPipe);
        move || drop(tch::no_grad(|| pipe.forward(&input)).expect("nothing fails"))
    });
}

fn trained(vars: &TrainedVars) -> Trained {
    Trained { first: Scale(vars.first().ones("w", &[4])), second: Scale(vars.second().ones("w", &[4])) }
}

/// Two stages that multiply, with graphs, boundaries between them, and the backward.
fn backward(criterion: &mut Criterion) {
    bench(criterion, "backward", |chunks, input| {
        let vars = Trained::vars(&Devices::cpu(2)).expect("as many devices as stages");
        let mut pipe = pipe(trained(&vars), &vars, chunks, ScheduleKind::GPipe);
        let mut optimizer = nn::Sgd::default().build(vars.var_store(), 0.).expect("an optimizer");
        move || {
            optimizer.zero_grad();
            pipe.forward(&input).expect("nothing fails").sum(Kind::Float).backward();
        }
    });
}

/// The same as a step whose backward comes in two parts.
fn split_step(criterion: &mut Criterion) {
    bench(criterion, "split_step", |chunks, input| {
        let vars = Trained::vars(&Devices::cpu(2)).expect("as many devices as stages");
        let mut pipe = pipe(trained(&vars), &vars, chunks, ScheduleKind::ZbH1);
        let mut optimizer = nn::Sgd::default().build(vars.var_store(), 0.).expect("an optimizer");
        move || {
            optimizer.zero_grad();
            let loss = |output: &Tensor, _: &Tensor| output.sum(Kind::Float);
            pipe.train_step(&input, &input, loss).expect("nothing fails");
        }
    });
}

criterion_group!(benches, scatter_and_dispatch, gather, second_stage, backward, split_step);
criterion_main!(benches);
