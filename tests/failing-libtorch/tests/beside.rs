//! Two pipelines on two threads, with other work of libtorch beside them on a third one: each has
//! the bits that it has alone. The test needs a process of its own, because that work changes what
//! belongs to all threads.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use pipe_failing_libtorch::set_default_kind;
use pipe_runtime::{CheapOutputs, Checkpoint, ScheduleKind};
use pipe_tests::torture::assert_same;
use pipe_tests::zoo::{Batch, Call, Creature, LayerSpec, Mode, Outcome, Stack2, Stack4, Watched, ZooModel};
use tch::{Device, Kind, Tensor};

/// Layers that draw no random numbers, and whose numbers have a kind: all threads have one
/// generator and one default kind.
const LAYERS: [Creature; 8] = [
    Creature::BatchNorm,
    Creature::Mix,
    Creature::Lstm,
    Creature::Queue,
    Creature::Twice,
    Creature::FastWeight,
    Creature::DenseEmbedding,
    Creature::Counting,
];

const STEPS: usize = 40;

fn build<M: ZooModel<Layers = Vec<LayerSpec>>>(call: Call, mode: Mode) -> (Watched<M>, Vec<Batch>) {
    let layers: Vec<LayerSpec> = LAYERS[..2 * M::PLAN.stages.len()].iter().map(|&creature| creature.into()).collect();
    let watched = Watched::build(&layers, 2, 4, mode, call).unwrap().0;
    tch::manual_seed(3);
    (watched, (0..3).map(|number| Batch::of::<M>(5 + number)).collect())
}

fn train<M: ZooModel>((mut watched, batches): (Watched<M>, Vec<Batch>)) -> Vec<Outcome> {
    let step = |number| watched.go_on(&batches[number % batches.len()], None).unwrap();
    (0..STEPS).map(step).collect()
}

/// Ends the other work, also when a pipeline has failed.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Changes what each thread, or the process, has for its own work.
fn disturb(over: &AtomicBool) {
    while !over.load(Relaxed) {
        for (threads, kind) in [(2, Kind::Double), (1, Kind::Float)] {
            tch::set_num_threads(threads);
            set_default_kind(kind);
            assert_eq!((Tensor::from(1_i64) / 2).kind(), kind);
            let x = Tensor::rand([64, 64], (Kind::Float, Device::Cpu)).set_requires_grad(true);
            let product = tch::autocast(true, || x.matmul(&x));
            product.sum(Kind::Float).backward();
            assert!(tch::no_grad(|| !x.matmul(&x).requires_grad()));
            tch::manual_seed(1);
        }
    }
}

#[test]
fn two_pipelines_on_two_threads_have_the_bits_that_each_has_alone() {
    tch::set_num_threads(1);
    let always = Mode { checkpoint: Checkpoint::Always, cheap: CheapOutputs::RecomputePointwise };
    let first = || build::<Stack4>(Call::Step(ScheduleKind::ZbH1), always);
    let second = || build::<Stack2>(Call::Forward { wants_gradient: true }, Checkpoint::ExceptLast.into());
    let (alone, other_alone) = (train(first()), train(second()));
    let (beside, other_beside, over) = (first(), second(), AtomicBool::new(false));
    let (found, other_found) = thread::scope(|scope| {
        scope.spawn(|| disturb(&over));
        let _over = Over(&over);
        let other = scope.spawn(|| train(other_beside));
        let found = train(beside);
        (found, other.join().unwrap())
    });
    for (number, (found, expected)) in found.iter().zip(&alone).chain(other_found.iter().zip(&other_alone)).enumerate()
    {
        assert_same(found, expected, &format!("step {number}"));
    }
}
