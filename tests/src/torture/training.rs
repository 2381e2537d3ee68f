//! Trainings of which an iteration fails. All of the training is what it was before: parameters,
//! statistics, gradients, the optimizer's state, counts, the random numbers that follow, and what a
//! checkpoint holds. The next iterations are those of a training in which nothing has failed.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use pipe_runtime::optim::{AdamW, LossScaler, LrSchedule, Sgd};
use pipe_runtime::{Checkpoints, Pipe, PipeBuilder, Result, Trainer};
use tch::Tensor;
use tempfile::TempDir;

use super::{Counters, MICRO_BATCHES, Place, ROWS, Stack, Tally, assert_error, assert_no_more, places, resources};
use crate::zoo::plain::gradients;
use crate::zoo::run::{failing_loss, recomputes};
use crate::zoo::train::CHUNKS;
use crate::zoo::{Batch, Call, Creature, How, LayerSpec, Mode, ON_PURPOSE, Probe, same_bits};

/// Layers without statistics, which an iteration keeps that fails in its update.
pub const WITHOUT_STATISTICS: [Creature; 8] = [
    Creature::Mix,
    Creature::Dropout,
    Creature::Lstm,
    Creature::Dropout,
    Creature::DenseEmbedding,
    Creature::Dropout,
    Creature::Mix,
    Creature::Dropout,
];

/// How parameters are updated, by a schedule of the learning rate that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipe {
    /// AdamW with clipping and a moving average.
    AdamW,
    /// SGD with momentum, by the gradients of two steps, whose loss is scaled.
    Sgd,
}

impl Recipe {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::AdamW, Self::Sgd];

    /// The steps of an update.
    pub fn steps(self) -> u64 {
        match self {
            Self::AdamW => 1,
            Self::Sgd => 2,
        }
    }
}

/// How the schedule of the learning rate fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RateFault {
    /// It panics.
    Panic = 1,
    /// It panics with a value that is no text.
    Payload = 2,
    /// It gives no number.
    NaN = 3,
}

impl RateFault {
    const ALL: [Self; 3] = [Self::Panic, Self::Payload, Self::NaN];

    fn says(self) -> &'static str {
        match self {
            Self::Panic => ON_PURPOSE,
            Self::Payload => "a panic without a message",
            Self::NaN => "gave the factor NaN",
        }
    }
}

/// A training of a model of layers, which can be made to fail.
pub struct Training<M: Stack> {
    /// The training.
    pub trainer: Trainer<M>,
    /// The pipeline's variables.
    pub vars: M::Vars,
    /// Makes layers fail.
    pub probe: Probe,
    /// The [`RateFault`], if there is one.
    rate: Arc<AtomicU8>,
}

/// Everything that an iteration may change.
#[derive(Debug)]
pub struct Everything {
    variables: BTreeMap<String, Tensor>,
    gradients: BTreeMap<String, Option<Tensor>>,
    /// The files of a checkpoint, with the optimizer's state, the counts and the state of the
    /// random number generator. There is none while gradients wait for an update.
    files: Option<BTreeMap<String, Vec<u8>>>,
    steps: u64,
}

impl<M: Stack> Training<M> {
    /// A training whose variables are initialized from `seed`.
    ///
    /// # Errors
    ///
    /// Fails if the pipeline or its optimizer cannot be built.
    pub fn new(seed: i64, layers: &[LayerSpec], recipe: Recipe, call: Call, mode: Mode) -> Result<Self> {
        tch::manual_seed(seed);
        let probe = Probe::default();
        let (model, vars) = M::make(&layers.to_vec(), &probe);
        let builder = PipeBuilder::new(model, &vars).chunks(CHUNKS).schedule(call.method());
        let builder = builder.checkpoint(mode.checkpoint).cheap_outputs(mode.cheap).intra_op_threads(1);
        let pipe: Pipe<M> = builder.build()?;
        let rate = Arc::new(AtomicU8::new(0));
        let fails = Arc::clone(&rate);
        let schedule = LrSchedule::custom(move |updates| match fails.load(Ordering::Relaxed) {
            1 => panic!("{ON_PURPOSE}"),
            2 => std::panic::panic_any(7),
            3 => f64::NAN,
            _ => 1. / (updates + 1) as f64,
        });
        let trainer = match recipe {
            Recipe::AdamW => {
                let optimizer = pipe.optimizer(AdamW::default()).clip_norm(1.).moving_average(0.9);
                let optimizer = optimizer.lr_schedule(schedule).build()?;
                Trainer::new(pipe, optimizer)?
            }
            Recipe::Sgd => {
                let rule = Sgd { lr: 0.01, momentum: 0.9, ..Sgd::default() };
                let optimizer = pipe.optimizer(rule).clip_value(0.5).lr_schedule(schedule).build()?;
                Trainer::new(pipe, optimizer)?.accumulate(2)?.loss_scaling(LossScaler::default().growth(2., 2))?
            }
        };
        Ok(Self { trainer, vars, probe, rate })
    }

    /// Runs an iteration, and returns its loss. With `loss_fails`, the loss of this micro-batch
    /// fails.
    ///
    /// # Errors
    ///
    /// Fails when the iteration does.
    pub fn step(&mut self, batch: &Batch, loss_fails: Option<(usize, How)>) -> Result<Tensor> {
        let mut calls = 0;
        let loss = failing_loss::<M>(loss_fails, &mut calls);
        Ok(self.trainer.step(M::input(&batch.input), &batch.target, loss)?.step.loss)
    }

    /// Runs an iteration in which this place fails.
    fn fail(&mut self, batch: &Batch, fault: TrainingFault) -> Result<Tensor> {
        let mut loss_fails = None;
        match fault {
            TrainingFault::Step(Place::Layer(fault)) => self.probe.fail(fault),
            TrainingFault::Step(Place::Loss(micro_batch, how)) => loss_fails = Some((micro_batch, how)),
            TrainingFault::Rate(fault) => self.rate.store(fault as u8, Ordering::Relaxed),
        }
        let result = self.step(batch, loss_fails);
        self.probe.fail(None);
        self.rate.store(0, Ordering::Relaxed);
        result
    }

    /// Runs an iteration that fails in its update, before anything is updated.
    ///
    /// # Panics
    ///
    /// If it does not.
    pub fn fail_in_update(&mut self, batch: &Batch) {
        let failed = self.fail(batch, TrainingFault::Rate(RateFault::Panic));
        assert!(failed.is_err_and(|error| error.to_string().contains("nothing was updated")), "the update fails");
    }

    /// Whether gradients wait for an update.
    pub fn has_gradients(&self) -> bool {
        self.vars.var_store().variables().into_values().any(|variable| variable.grad().defined())
    }

    /// Copies everything that an iteration may change. The checkpoint is made in `folder`.
    ///
    /// # Panics
    ///
    /// If the checkpoint cannot be saved or read.
    pub fn everything(&self, folder: &Path) -> Everything {
        let variables: BTreeMap<_, _> = self.vars.var_store().variables().into_iter().collect();
        let copied = |gradient: Option<Tensor>| gradient.map(|gradient| gradient.copy());
        let gradients: BTreeMap<_, _> =
            gradients(&variables).into_iter().map(|(name, gradient)| (name, copied(gradient))).collect();
        Everything {
            files: (!self.has_gradients()).then(|| {
                let mut checkpoints = Checkpoints::in_folder(folder).keep(1);
                files_in(&checkpoints.save(&self.trainer).expect("the checkpoint can be saved"))
            }),
            gradients,
            variables: variables.into_iter().map(|(name, tensor)| (name, tensor.detach().copy())).collect(),
            steps: self.trainer.steps(),
        }
    }
}

/// A folder of its own: in memory, if the system has such, since what is saved there is only
/// compared.
///
/// # Panics
///
/// If there is no room for it.
pub fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("there is room for a folder")
}

/// The files of a folder, with what is in them.
fn files_in(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder).expect("the folder can be read").map(|entry| entry.expect("an entry"));
    let file = |entry: std::fs::DirEntry| {
        let content = std::fs::read(entry.path()).expect("the file can be read");
        (entry.file_name().to_string_lossy().into_owned(), content)
    };
    entries.map(file).collect()
}

impl Everything {
    /// Asserts that everything has these bits.
    ///
    /// # Panics
    ///
    /// If it has not.
    pub fn assert_same(&self, expected: &Self, about: &dyn fmt::Display) {
        assert_eq!(self.steps, expected.steps, "steps, {about}");
        for (name, value) in &expected.variables {
            assert!(same_bits(value, &self.variables[name]), "{name}, {about}");
        }
        for (name, expected) in &expected.gradients {
            let same = match (expected, &self.gradients[name]) {
                (Some(expected), Some(found)) => same_bits(expected, found),
                (expected, found) => expected.is_none() && found.is_none(),
            };
            assert!(same, "the gradient of {name}, {about}");
        }
        let names = |files: &Option<BTreeMap<String, Vec<u8>>>| {
            files.as_ref().map(|files| files.keys().cloned().collect::<Vec<_>>())
        };
        assert_eq!(names(&self.files), names(&expected.files), "files of a checkpoint, {about}");
        for (name, content) in expected.files.iter().flatten() {
            assert!(self.files.iter().any(|found| found[name] == *content), "`{name}` of a checkpoint, {about}");
        }
    }
}

/// Where an iteration fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TrainingFault {
    Step(Place),
    /// In the schedule of the learning rate, before the update.
    Rate(RateFault),
}

/// Runs a failing iteration for each place of which `takes` wants the number, and successful ones
/// after each of them, until all gradients are used. With `counters`, threads, open files and the
/// memory of tensors are counted.
///
/// # Panics
///
/// If a training without a fault fails.
pub fn torture_training<M: Stack>(
    layers: &[LayerSpec],
    recipe: Recipe,
    (call, mode): (Call, Mode),
    counters: Option<Counters>,
    takes: impl Fn(usize) -> bool,
) -> Tally {
    tch::manual_seed(1);
    let (batch, other) = (Batch::of::<M>(ROWS), Batch::of::<M>(ROWS));
    let folder = folder();
    let new = || Training::<M>::new(2, layers, recipe, call, mode).expect("the training can be built");
    let mut pair = [new(), new()];
    let recomputes = recomputes(pair[0].trainer.pipe(), call, MICRO_BATCHES);
    let mut faults: Vec<_> = places::<M>(layers, call, recomputes).into_iter().map(TrainingFault::Step).collect();
    if recipe == Recipe::AdamW {
        faults.extend(RateFault::ALL.map(TrainingFault::Rate));
    }
    let mut tally = Tally::default();
    let mut in_use = None;
    for (number, fault) in faults.into_iter().enumerate().filter(|(number, _)| takes(*number)) {
        let how = match fault {
            TrainingFault::Step(place) => format!("{:?}", place.how()),
            TrainingFault::Rate(_) => "Rate".to_owned(),
        };
        *tally.attempts.entry(how).or_default() += 1;
        let about = format!("{fault:?}, {recipe:?}, {layers:?}, {call}, {mode}");
        let attempt = || {
            let [victim, undisturbed] = &mut pair;
            // Where several steps make an update, every second fault is in the last of them.
            let steps = if number % 2 == 1 { recipe.steps() - 1 } else { 0 };
            let seeded = |step: u64| tch::manual_seed((number as i64) << 8 | step as i64);
            for step in 0..steps {
                for training in [&mut *victim, &mut *undisturbed] {
                    seeded(step);
                    drop(training.step(&batch, None).expect("a step without a fault"));
                }
            }
            let before_resources = counters.map(|_| resources());
            seeded(100);
            let before = victim.everything(folder.path());
            seeded(100);
            let result = victim.fail(&other, fault);
            let after = victim.everything(folder.path());
            let error = result.err().unwrap_or_else(|| panic!("no failure, {about}"));
            match fault {
                TrainingFault::Step(place) => assert_error::<M>(&error, place, &about),
                TrainingFault::Rate(fault) => {
                    let text = error.to_string();
                    assert!(text.contains(fault.says()) && text.contains("nothing was updated"), "{text}, {about}");
                }
            }
            after.assert_same(&before, &about);
            if let Some(before) = before_resources {
                assert_no_more(before, &about);
            }
            drop((before, after));
            for step in steps..2 * recipe.steps() {
                let [found, expected] = [&mut *victim, undisturbed].map(|training| {
                    seeded(step);
                    training.step(&batch, None).unwrap_or_else(|error| panic!("after {about}: {error}"))
                });
                assert!(same_bits(&found, &expected), "the loss after {about}");
            }
            let [found, expected] = [&*victim, undisturbed].map(|training| {
                seeded(101);
                training.everything(folder.path())
            });
            found.assert_same(&expected, &format!("after {about}"));
            drop((found, expected));
            if let Some(Counters { in_use: now }) = counters {
                let now = now();
                let before = *in_use.get_or_insert(now);
                assert!(now <= before, "{now} tensors have memory, and not {before}, after {about}");
            }
        };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(attempt)) {
            tally.misses.push(panic.downcast::<String>().map_or(about, |text| *text));
            pair = [new(), new()];
            in_use = None;
        }
    }
    tally
}
