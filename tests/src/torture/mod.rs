//! Steps with a fault at every op. Each gives the right error and changes nothing, and the next
//! step is the one that it would have been.

pub mod training;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};
use std::{fmt, fs, thread};

use pipe_runtime::{Error, Failure, Phase};
use tch::{Device, Kind, Tensor};

use crate::zoo::train::CHUNKS;
use crate::zoo::{
    Batch, Call, Comparison, Creature, Fault, How, LayerSpec, Mode, Nearness, ON_PURPOSE, Outcome, Watchable, Watched,
    same_bits,
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
pub trait Stack: Watchable<Layers = Vec<LayerSpec>> {
    /// The first two of these layers for each stage.
    fn of(creatures: &[Creature; 8]) -> Vec<LayerSpec> {
        creatures[..2 * Self::PLAN.stages.len()].iter().map(|&creature| creature.into()).collect()
    }
}

impl<M: Watchable<Layers = Vec<LayerSpec>>> Stack for M {}

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

/// What is counted if the process does nothing else.
#[derive(Clone, Copy, Debug)]
pub struct Counters {
    /// The blocks of memory that tensors have.
    pub in_use: fn() -> i64,
}

/// Runs a failing call for each place of which `takes` wants the number, and a successful one after
/// each of them. Gradients accumulate. With `counters`, threads, open files and the memory of
/// tensors are counted.
pub fn torture<M: Stack>(
    layers: &[LayerSpec],
    (call, mode): (Call, Mode),
    counters: Option<Counters>,
    takes: impl Fn(usize, Place) -> bool,
) -> Tally {
    let mut torture = Torture::<M>::new(layers, (call, mode), counters);
    let all = places::<M>(layers, call, torture.victim.watched.recomputes(MICRO_BATCHES));
    let numbered = all.into_iter().enumerate().filter(|&(number, place)| takes(number, place));
    for (_, place) in numbered {
        let how = format!("{:?}", place.how());
        torture.attempt(&how, &format!("{place:?}"), |victim, other, seed, about| {
            victim.fail(place, other, seed, about);
        });
    }
    torture.tally
}

/// Calls into libtorch of which one can be made to fail.
#[derive(Clone, Copy, Debug)]
pub struct Countdown {
    /// What one of them is called.
    pub what: &'static str,
    /// Makes the one with this number fail, counted from 1 and from now on; 0 for none.
    pub fail_at: fn(i64),
    /// Those that are left until one fails.
    pub left: fn() -> i64,
    /// What the error says.
    pub says: &'static str,
}

/// Runs a call for each of its allocations, or operators, of which `takes` wants the number. That
/// one fails, and a successful call follows. Gradients accumulate. Nothing else may run in the
/// process.
pub fn torture_libtorch<M: Stack>(
    layers: &[LayerSpec],
    (call, mode): (Call, Mode),
    (countdown, counters): (Countdown, Counters),
    takes: impl Fn(i64) -> bool,
) -> Tally {
    let mut torture = Torture::<M>::new(layers, (call, mode), Some(counters));
    let what = countdown.what;
    let count = torture.count(countdown);
    assert!(count > 0, "the call has no {what}");
    for number in (1..=count).filter(|&number| takes(number)) {
        torture.attempt(what, &format!("{what} {number} of {count}"), |victim, other, seed, about| {
            victim.fail_in_libtorch(number, countdown, (other, seed), about);
        });
    }
    torture.tally
}

/// Calls that fail, and what became of them.
struct Torture<M: Stack> {
    layers: Vec<LayerSpec>,
    call: Call,
    mode: Mode,
    counters: Option<Counters>,
    batch: Batch,
    /// The mini-batch of the calls that fail.
    other: Batch,
    victim: Victim<M>,
    tally: Tally,
}

impl<M: Stack> Torture<M> {
    fn new(layers: &[LayerSpec], (call, mode): (Call, Mode), counters: Option<Counters>) -> Self {
        tch::manual_seed(1);
        let (batch, other) = (Batch::of::<M>(ROWS), Batch::of::<M>(ROWS));
        let layers = layers.to_vec();
        let victim = Victim::new(&layers, (call, mode), &batch, counters);
        Self { layers, call, mode, counters, batch, other, victim, tally: Tally::default() }
    }

    /// Makes a call fail, and another one succeed. What is wrong with them is a miss.
    fn attempt(&mut self, how: &str, what: &str, fail: impl FnOnce(&mut Victim<M>, &Batch, i64, &String)) {
        let Self { layers, call, mode, .. } = &*self;
        let about = format!("{what}, {layers:?}, {call}, {mode}");
        let seed = 1 + self.tally.count() as i64;
        *self.tally.attempts.entry(how.to_owned()).or_default() += 1;
        let attempt = || {
            fail(&mut self.victim, &self.other, seed, &about);
            self.victim.go_on(&self.batch, seed, &about);
        };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(attempt)) {
            self.tally.misses.push(panic.downcast::<String>().map_or(about, |text| *text));
            // Later faults must not be blamed for this one.
            self.renew();
        }
    }

    fn renew(&mut self) {
        self.victim = Victim::new(&self.layers, (self.call, self.mode), &self.batch, self.counters);
        // The old one's threads had not ended before.
        self.victim.resources = self.counters.map(|_| resources());
    }

    /// How many of these a call has.
    fn count(&mut self, countdown: Countdown) -> i64 {
        let called = bare_call(&mut self.victim.watched, &self.other, || (countdown.fail_at)(i64::MAX));
        let count = i64::MAX - (countdown.left)();
        (countdown.fail_at)(0);
        assert!(matches!(called, Ok(Ok(()))), "a call without a fault");
        self.renew();
        count
    }
}

/// Runs the pipeline's part of a call, after `begin`. The outer error is a panic.
fn bare_call<M: Stack>(
    watched: &mut Watched<M>,
    batch: &Batch,
    begin: impl FnOnce(),
) -> thread::Result<Result<(), Error>> {
    let call = watched.call();
    let input = batch.input(matches!(call, Call::Forward { wants_gradient: true }));
    let (pipe, input, target) = (&mut watched.pipe, M::input(&input), &batch.target);
    begin();
    catch_unwind(AssertUnwindSafe(|| match call {
        Call::Step(_) => pipe.step().keep_output().run(input, target, M::loss).map(drop),
        Call::Forward { .. } => pipe.forward(input).map(drop),
    }))
}

/// A pipeline in which steps fail, and one without faults.
struct Victim<M: Stack> {
    watched: Watched<M>,
    undisturbed: Watched<M>,
    /// What the last successful step has left.
    before: Outcome,
    /// Threads and open files of the process, if it does nothing else.
    resources: Option<[usize; 2]>,
    counters: Option<Counters>,
    /// The blocks of memory that tensors had after the last successful step.
    in_use: Option<i64>,
}

impl<M: Stack> Victim<M> {
    fn new(layers: &Vec<LayerSpec>, (call, mode): (Call, Mode), batch: &Batch, counters: Option<Counters>) -> Self {
        let build = || Watched::<M>::build(layers, 2, CHUNKS, mode, call).expect("it can be built").0;
        let (mut watched, mut undisturbed) = (build(), build());
        let step = |watched: &mut Watched<M>| watched.run(batch, 0).expect("a step without a fault");
        let (before, _) = (step(&mut watched), step(&mut undisturbed));
        Self { watched, undisturbed, before, resources: counters.map(|_| resources()), counters, in_use: None }
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
        self.assert_unchanged(&drawn, seed, about);
    }

    /// A call of which this allocation, or operator, fails is an error that says so, and changes
    /// nothing; or it does without, and is a call like any other.
    fn fail_in_libtorch(
        &mut self,
        number: i64,
        countdown: Countdown,
        (other, seed): (&Batch, i64),
        about: &dyn fmt::Display,
    ) {
        self.watched.probe.take();
        tch::manual_seed(seed);
        let result = bare_call(&mut self.watched, other, || (countdown.fail_at)(number));
        (countdown.fail_at)(0);
        let drawn = draw();
        match result {
            Ok(Err(error)) => {
                let words = error.to_string();
                assert!(words.contains(countdown.says), "{error}, {about}");
                if words.contains("which have been dropped") {
                    // Without any, rather than with some of this step and some of the one before.
                    assert!(self.watched.gradients().values().all(Option::is_none), "{error}, {about}");
                    self.before.gradients = self.watched.gradients();
                }
            }
            Ok(Ok(())) => {
                tch::manual_seed(seed);
                let expected = bare_call(&mut self.undisturbed, other, || ());
                assert!(matches!(expected, Ok(Ok(()))), "a call without a fault");
                self.watched.assert_state(&self.undisturbed.state(), about);
                self.watched.assert_gradients(&self.undisturbed.gradients(), about);
                return;
            }
            Err(panic) => {
                let text = panic.downcast::<String>().map_or_else(|_| "another payload".to_owned(), |text| *text);
                panic!("a panic, {text}, {about}")
            }
        }
        self.assert_unchanged(&drawn, seed, about);
    }

    /// Nothing is changed, and `drawn` are the numbers that follow `seed`.
    fn assert_unchanged(&mut self, drawn: &Tensor, seed: i64, about: &dyn fmt::Display) {
        self.watched.assert_state(&self.before.state, about);
        self.watched.assert_gradients(&self.before.gradients, about);
        tch::manual_seed(seed);
        assert!(same_bits(drawn, &draw()), "the random numbers that follow, {about}");
        if let Some(before) = self.resources {
            assert_no_more(before, about);
        }
    }

    /// The next step has the bits that it would have had.
    fn go_on(&mut self, batch: &Batch, seed: i64, about: &dyn fmt::Display) {
        if self.before.gradients.values().all(Option::is_none) {
            self.undisturbed.drop_gradients().expect("gradients can be dropped");
        }
        let expected = self.undisturbed.run(batch, seed).expect("a step without a fault");
        self.before = self.watched.run(batch, seed).unwrap_or_else(|error| panic!("after {about}: {error}"));
        assert_same(&self.before, &expected, &format!("after {about}"));
        drop(expected);
        if let Some(Counters { in_use }) = self.counters {
            let now = in_use();
            let before = *self.in_use.get_or_insert(now);
            assert!(now <= before, "{now} tensors have memory, and not {before}, after {about}");
        }
    }
}

fn draw() -> Tensor {
    Tensor::rand([4], (Kind::Double, Device::Cpu))
}

/// The numbers of the process's threads and open files, where the system has them as folders.
pub fn resources() -> [usize; 2] {
    if !cfg!(target_os = "linux") {
        return [0; 2];
    }
    ["/proc/self/task", "/proc/self/fd"].map(|folder| match fs::read_dir(folder) {
        Ok(entries) => entries.count(),
        Err(error) => panic!("cannot count what is in {folder}: {error}"),
    })
}

/// Asserts that the process has no more threads and open files than before. A worker that frees the
/// last graph of a dropped pipeline ends by itself, a moment later.
pub fn assert_no_more(before: [usize; 2], about: &dyn fmt::Display) {
    let start = Instant::now();
    loop {
        let now = resources();
        if now.iter().zip(&before).all(|(now, before)| now <= before) {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(10), "{now:?} threads and open files, not {before:?}, {about}");
        thread::sleep(Duration::from_millis(1));
    }
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
        Place::Layer(fault) => (fault.micro_batch, fault.layer / 2, M::name(fault.layer)),
        Place::Loss(number, _) => (number, last, "loss".to_owned()),
    };
    let recomputing = matches!(place, Place::Layer(Fault { recomputing: true, .. }));
    let pass = if recomputing { Phase::Recomputation } else { Phase::Forward };
    assert_eq!(*micro_batch, number, "the micro-batch of {error}, {about}");
    let is_right = match place.how() {
        How::Backward => {
            // The backward of a stage is libtorch's, which runs no layer.
            let layer_is_right = *layer == if matches!(place, Place::Loss(..)) { expected } else { String::new() };
            layer_is_right
                && *phase == Phase::Backward
                && *stage == at
                && cause.contains("modified by an inplace operation")
        }
        // It is seen where the shape is first looked at.
        How::Shape => *stage >= at,
        how => {
            let says = match how {
                How::Panic | How::PanicBefore => cause.contains(ON_PURPOSE),
                How::Torch => cause.contains("shape '[2]' is invalid"),
                _ => cause == "a panic without a message",
            };
            says && *stage == at && *layer == expected && *phase == pass
        }
    };
    assert!(is_right, "the error is `{error}`, {about}");
}
