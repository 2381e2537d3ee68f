//! Steps with a fault at every op. Each gives the right error and changes nothing, and the next
//! step is the one that it would have been.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use pipe_runtime::{Error, Failure, Phase};
use tch::{Device, Kind, Tensor};

use crate::zoo::run::same_bits;
use crate::zoo::train::CHUNKS;
use crate::zoo::{
    Batch, Call, Comparison, Creature, Fault, How, LayerSpec, Mode, Nearness, ON_PURPOSE, Outcome, Watched, ZooModel,
};

/// Rows of the mini-batch, in micro-batches of two, two, two and one.
pub const ROWS: i64 = 7;

/// Micro-batches of a step.
pub const MICRO_BATCHES: usize = 4;

/// Layers for up to four stages, two per stage, with statistics, a kept value and dropout.
pub const STATEFUL: [Creature; 8] = [
    Creature::BatchNorm,
    Creature::Dropout,
    Creature::Cache,
    Creature::Dropout,
    Creature::Mix,
    Creature::Dropout,
    Creature::BatchNorm,
    Creature::Dropout,
];

/// Layers whose state is written row by row, counted, or moved to other memory, and layers with a
/// graph of their own.
pub const INWARD: [Creature; 8] = [
    Creature::Queue,
    Creature::Forces,
    Creature::MovedMean,
    Creature::SlopePenalty,
    Creature::Counting,
    Creature::FastWeight,
    Creature::Spectral,
    Creature::SlowWeight,
];

/// Layers with gradients of other kinds, and several weights.
pub const WEIGHTS: [Creature; 8] = [
    Creature::DenseEmbedding,
    Creature::Lstm,
    Creature::SparseEmbedding,
    Creature::ComplexWeights,
    Creature::SparseAndDense,
    Creature::BiasedAttention,
    Creature::Gru,
    Creature::LowRank,
];

/// A model of layers that can be chosen.
pub trait Stack: ZooModel<Layers = Vec<LayerSpec>> {
    /// The first two of these layers for each stage.
    fn of(creatures: &[Creature; 8]) -> Vec<LayerSpec> {
        creatures[..2 * Self::PLAN.stages.len()].iter().map(|&creature| creature.into()).collect()
    }
}

impl<M: ZooModel<Layers = Vec<LayerSpec>>> Stack for M {}

/// Where a step fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a layer.
    Layer(Fault),
    /// In the loss of this micro-batch.
    Loss(usize, How),
}

impl Place {
    /// How it fails.
    pub fn how(self) -> How {
        match self {
            Self::Layer(fault) => fault.how,
            Self::Loss(_, how) => how,
        }
    }
}

/// Every place at which a call can fail. `recomputes` says whether a stage recomputes a
/// micro-batch.
pub fn places<M: Stack>(layers: &[LayerSpec], call: Call, recomputes: impl Fn(usize, usize) -> bool) -> Vec<Place> {
    let stages = M::stages(&layers.to_vec());
    let is_step = matches!(call, Call::Step(_));
    let mut places = Vec::new();
    for (layer, stage) in stages.into_iter().enumerate() {
        for micro_batch in 0..MICRO_BATCHES {
            let again = recomputes(stage, micro_batch);
            for how in How::ALL {
                let passes: &[bool] = match how {
                    // The graph is that of the last pass. Without a step, the caller runs the loss
                    // and the backward.
                    How::Backward if is_step => &[again],
                    How::Shape if is_step => &[false],
                    How::Backward | How::Shape => &[],
                    _ if again && is_step => &[false, true],
                    _ => &[false],
                };
                let fault = |&recomputing| Place::Layer(Fault { layer, micro_batch, recomputing, how });
                places.extend(passes.iter().map(fault));
            }
        }
    }
    if is_step {
        places.extend((0..MICRO_BATCHES).flat_map(|micro_batch| How::ALL.map(|how| Place::Loss(micro_batch, how))));
    }
    places
}

/// What became of the faults.
#[derive(Debug, Default)]
pub struct Tally {
    /// The number of faults, by how they failed.
    pub attempts: BTreeMap<String, usize>,
    /// What was not as it should be.
    pub misses: Vec<String>,
}

impl Tally {
    /// The number of all faults.
    pub fn count(&self) -> usize {
        self.attempts.values().sum()
    }

    /// Adds those of another one.
    pub fn add(&mut self, other: Self) {
        for (how, count) in other.attempts {
            *self.attempts.entry(how).or_default() += count;
        }
        self.misses.extend(other.misses);
    }
}

/// Runs a failing call for each place of which `takes` wants the number, and a successful one after
/// each of them. Gradients accumulate. If the process does nothing else, `alone`, its threads and
/// open files are counted.
pub fn torture<M: Stack>(
    layers: &[LayerSpec],
    (call, mode): (Call, Mode),
    alone: bool,
    takes: impl Fn(usize, Place) -> bool,
) -> Tally {
    let layers = layers.to_vec();
    tch::manual_seed(1);
    let (batch, other) = (Batch::of::<M>(ROWS), Batch::of::<M>(ROWS));
    let build = || Watched::<M>::build(&layers, 2, CHUNKS, mode, call).expect("it can be built").0;
    let victim = || Victim::new(build(), build(), &batch, alone);
    let mut tortured = victim();
    let mut tally = Tally::default();
    let all = places::<M>(&layers, call, tortured.watched.recomputes(MICRO_BATCHES));
    let numbered = all.into_iter().enumerate().filter(|&(number, place)| takes(number, place));
    for (seed, (_, place)) in (1..).zip(numbered) {
        let about = format!("{place:?}, {layers:?}, {call}, {mode}");
        *tally.attempts.entry(format!("{:?}", place.how())).or_default() += 1;
        let attempt = || {
            tortured.fail(place, &other, seed, &about);
            tortured.go_on(&batch, seed, &about);
        };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(attempt)) {
            tally.misses.push(panic.downcast::<String>().map_or(about, |text| *text));
            // Later faults must not be blamed for this one.
            drop(tortured);
            tortured = victim();
        }
    }
    tally
}

/// A pipeline in which steps fail, and one without faults.
struct Victim<M: Stack> {
    watched: Watched<M>,
    undisturbed: Watched<M>,
    /// What the last successful step has left.
    before: Outcome,
    /// Threads and open files of the process, if it does nothing else.
    resources: Option<[usize; 2]>,
}

impl<M: Stack> Victim<M> {
    fn new(mut watched: Watched<M>, mut undisturbed: Watched<M>, batch: &Batch, alone: bool) -> Self {
        let step = |watched: &mut Watched<M>| watched.run(batch, 0).expect("a step without a fault");
        let (before, _) = (step(&mut watched), step(&mut undisturbed));
        Self { watched, undisturbed, before, resources: alone.then(resources) }
    }

    /// A call that fails is an error that says where and why, and changes nothing.
    fn fail(&mut self, place: Place, other: &Batch, seed: i64, about: &dyn fmt::Display) {
        let loss_fails = match place {
            Place::Layer(fault) => {
                self.watched.probe.fail(fault);
                None
            }
            Place::Loss(micro_batch, how) => Some((micro_batch, how)),
        };
        tch::manual_seed(seed);
        let result = self.watched.go_on(other, loss_fails);
        let drawn = draw();
        self.watched.probe.fail(None);
        let error = result.err().unwrap_or_else(|| panic!("no failure, {about}"));
        assert_error::<M>(&error, place, about);
        self.watched.assert_state(&self.before.state, about);
        self.watched.assert_gradients(&self.before.gradients, about);
        tch::manual_seed(seed);
        assert!(same_bits(&drawn, &draw()), "the random numbers that follow, {about}");
        if let Some(before) = self.resources {
            assert_eq!(resources(), before, "threads and open files, {about}");
        }
    }

    /// The next step has the bits that it would have had.
    fn go_on(&mut self, batch: &Batch, seed: i64, about: &dyn fmt::Display) {
        let expected = self.undisturbed.run(batch, seed).expect("a step without a fault");
        self.before = self.watched.run(batch, seed).unwrap_or_else(|error| panic!("after {about}: {error}"));
        assert_same(&self.before, &expected, &format!("after {about}"));
    }
}

fn draw() -> Tensor {
    Tensor::rand([4], (Kind::Double, Device::Cpu))
}

/// The numbers of the process's threads and open files.
pub fn resources() -> [usize; 2] {
    ["/proc/self/task", "/proc/self/fd"].map(|folder| std::fs::read_dir(folder).map_or(0, Iterator::count))
}

/// Asserts that two outcomes are equal bit by bit.
pub fn assert_same(found: &Outcome, expected: &Outcome, about: &dyn fmt::Display) {
    let gradients = |_: &str| Nearness::Bits;
    let (values, state) = (Nearness::Bits, Some(Nearness::Bits));
    Comparison { values, gradients: &gradients, state, fresh: true }.assert(found, expected, about);
}

/// Asserts that an error says where this fault was, and what it was.
fn assert_error<M: Stack>(error: &Error, place: Place, about: &dyn fmt::Display) {
    let Error::Failed(Failure { phase, stage, layer, micro_batch, cause, .. }) = error else {
        panic!("the error is {error:?}, {about}");
    };
    let last = M::PLAN.stages.len() - 1;
    let (number, at, expected) = match place {
        // There are two layers per stage.
        Place::Layer(fault) => (fault.micro_batch, fault.layer / 2, Some(format!("layers.{}", fault.layer))),
        Place::Loss(number, _) => (number, last, None),
    };
    let recomputing = matches!(place, Place::Layer(Fault { recomputing: true, .. }));
    let pass = if recomputing { Phase::Recomputation } else { Phase::Forward };
    assert_eq!(*micro_batch, number, "the micro-batch of {error}, {about}");
    let is_right = match place.how() {
        // The loss's own backward belongs to the op that runs the loss.
        How::Backward => {
            let is_there = *stage == at && (*phase == Phase::Backward || matches!(place, Place::Loss(..)));
            is_there && cause.contains("modified by an inplace operation")
        }
        // It is seen where the shape is first looked at.
        How::Shape => *stage >= at,
        how => {
            let says = match how {
                How::Panic | How::PanicBefore => cause.contains(ON_PURPOSE),
                How::Torch => cause.contains("shape '[2]' is invalid"),
                _ => true,
            };
            let is_there = expected.is_none_or(|expected| *layer == expected && *phase == pass);
            says && is_there && *stage == at
        }
    };
    assert!(is_right, "the error is `{error}`, {about}");
}
