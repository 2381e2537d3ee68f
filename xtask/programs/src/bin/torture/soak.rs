//! A long training in which everything happens: batches of any size, other schedules and modes,
//! steps that fail, saves and loads. Beside it runs one of which only
//! the settings change. Both have the same losses, bit by bit.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use pipe_runtime::optim::AdamW;
use pipe_runtime::{Checkpoints, Pipe, PipeBuilder, Trainer};
use pipe_tests::zoo::train::{CHUNKS, MODES, calls};
use pipe_tests::zoo::{Batch, Call, Creature, Fault, How, LayerSpec, Mode, Probe, Stack4, Watchable, same_bits};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tch::Tensor;

use crate::process::Resources;

/// Layers whose state is in their variables, so that a checkpoint has all of it.
const LAYERS: [Creature; 8] = [
    Creature::BatchNorm,
    Creature::Dropout,
    Creature::Lstm,
    Creature::Dropout,
    Creature::SparseAndDense,
    Creature::Mix,
    Creature::BatchNorm,
    Creature::Dropout,
];

/// Samples of the process's memory.
const SAMPLES: u64 = 100;

/// How often something happens: once in so many steps.
const REBUILT: u32 = 20;
const FAILS: u32 = 5;
const SAVED: u32 = 10;
const LOADED: u32 = 40;

/// Trains, and returns the number of misses.
pub fn run(steps: u64, seed: u64) -> Result<usize> {
    let start = Instant::now();
    let (folder, calm_folder) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let mut checkpoints = Checkpoints::in_folder(folder.path()).keep(2);
    let mut calm_checkpoints = Checkpoints::in_folder(calm_folder.path()).keep(1);
    let mut random = StdRng::seed_from_u64(seed);
    let settings = Settings::any(&mut random);
    let (mut troubled, mut calm) = (Training::new(1, settings)?, Training::new(1, settings)?);
    let (mut failed, mut saved, mut loaded, mut rebuilt) = (0, 0, 0, 0);
    let mut samples = Vec::new();
    for step in 0..steps {
        let batch = batch(step, random.random_range(4..=16));
        if random.random_ratio(1, REBUILT) {
            let settings = Settings::any(&mut random);
            troubled = troubled.rebuild(settings, &mut checkpoints)?;
            calm = calm.rebuild(settings, &mut calm_checkpoints)?;
            rebuilt += 1;
        }
        if random.random_ratio(1, FAILS) {
            let error = troubled.fail(&mut random, &batch, step);
            ensure!(error.is_some(), "step {step} did not fail");
            failed += 1;
        }
        let (found, expected) = (troubled.step(&batch, step)?, calm.step(&batch, step)?);
        ensure!(same_bits(&found, &expected), "the loss of step {step} is {found:?} instead of {expected:?}");
        if random.random_ratio(1, SAVED) {
            match random.random() {
                true => checkpoints.save_in_background(&troubled.trainer)?,
                false => drop(checkpoints.save(&troubled.trainer)?),
            }
            saved += 1;
        }
        if random.random_ratio(1, LOADED) {
            let settings = troubled.settings;
            troubled = troubled.rebuild(settings, &mut checkpoints)?;
            loaded += 1;
        }
        if (step + 1) % (steps / SAMPLES).max(1) == 0 {
            checkpoints.finish()?;
            samples.push(Resources::now()?);
        }
    }
    let (found, expected) = (troubled.variables(), calm.variables());
    for ((name, found), (_, expected)) in found.iter().zip(&expected) {
        ensure!(same_bits(found, expected), "{name} differs at the end");
    }
    println!(
        "{steps} steps, {:.0} s: {rebuilt} times rebuilt, {failed} failed, {saved} times saved, {loaded} times loaded",
        start.elapsed().as_secs_f64()
    );
    println!("all losses and variables are those of a training without faults, bit by bit");
    Ok(usize::from(!is_flat(&samples)))
}

/// What may change from step to step.
#[derive(Clone, Copy)]
struct Settings {
    call: Call,
    mode: Mode,
}

impl Settings {
    fn any(random: &mut StdRng) -> Self {
        let steps: Vec<Call> = calls(4).into_iter().filter(|call| matches!(call, Call::Step(_))).collect();
        let call = *steps.choose(random).expect("there is a schedule");
        Self { call, mode: *MODES.choose(random).expect("there is a mode") }
    }

    fn pipe(self, model: Stack4, vars: &<Stack4 as Watchable>::Vars) -> Result<Pipe<Stack4>> {
        let builder = PipeBuilder::new(model, vars).chunks(CHUNKS).schedule(self.call.method());
        Ok(builder.checkpoint(self.mode.checkpoint).cheap_outputs(self.mode.cheap).intra_op_threads(1).build()?)
    }
}

struct Training {
    trainer: Trainer<Stack4>,
    vars: <Stack4 as Watchable>::Vars,
    probe: Probe,
    settings: Settings,
}

impl Training {
    fn new(seed: i64, settings: Settings) -> Result<Self> {
        tch::manual_seed(seed);
        let probe = Probe::default();
        let layers: Vec<LayerSpec> = LAYERS.map(LayerSpec::from).to_vec();
        let (model, vars) = Stack4::make(&layers, &probe);
        let pipe = settings.pipe(model, &vars)?;
        let optimizer = pipe.optimizer(AdamW::default()).clip_norm(1.).build()?;
        Ok(Self { trainer: Trainer::new(pipe, optimizer)?, vars, probe, settings })
    }

    /// The same training with other settings, in a model that is made again: an optimizer belongs
    /// to its pipeline, so this saves everything and reads it.
    fn rebuild(self, settings: Settings, checkpoints: &mut Checkpoints) -> Result<Self> {
        checkpoints.save(&self.trainer)?;
        drop(self);
        let mut new = Self::new(2, settings)?;
        ensure!(checkpoints.resume(&mut new.trainer)?, "there is a checkpoint");
        Ok(new)
    }

    fn step(&mut self, batch: &Batch, step: u64) -> Result<Tensor> {
        tch::manual_seed(step as i64);
        let report = self.trainer.step(Stack4::input(&batch.input), &batch.target, Stack4::loss);
        Ok(report.with_context(|| format!("step {step}"))?.step.loss)
    }

    /// Tries a step in which a layer fails.
    fn fail(&mut self, random: &mut StdRng, batch: &Batch, step: u64) -> Option<anyhow::Error> {
        let hows = [How::Panic, How::PanicBefore, How::Payload, How::Torch, How::Shape];
        let micro_batches = batch.micro_batches(CHUNKS);
        self.probe.fail(Fault {
            layer: random.random_range(0..LAYERS.len()),
            micro_batch: random.random_range(0..micro_batches),
            recomputing: false,
            how: *hows.choose(random).expect("there is a way to fail"),
        });
        let result = self.step(batch, step);
        self.probe.fail(None);
        result.err()
    }

    fn variables(&self) -> Vec<(String, Tensor)> {
        let mut variables: Vec<_> = self.vars.var_store().variables().into_iter().collect();
        variables.sort_by(|a, b| a.0.cmp(&b.0));
        variables
    }
}

fn batch(step: u64, rows: i64) -> Batch {
    tch::manual_seed(-1 - step as i64);
    Batch::of::<Stack4>(rows)
}

/// Whether memory does not grow in the second half, and threads and files are constant: prints what
/// was found.
fn is_flat(samples: &[Resources]) -> bool {
    let half = &samples[samples.len() / 2..];
    let [first, last] = [half[0], half[half.len() - 1]];
    let (slope, error) = slope(&half.iter().map(|sample| sample.memory as f64 / 1024.).collect::<Vec<_>>());
    println!("after half of the steps {first}; at the end {last}");
    println!("memory in the second half: {slope:.1} ± {error:.1} KiB per sample, of {}", half.len());
    let constant = half.iter().all(|sample| (sample.threads, sample.files) == (first.threads, first.files));
    if !constant {
        println!("miss: threads and open files are not constant: {half:?}");
    }
    // Freed pages come and go by some hundreds of KiB.
    let grows = slope > 3. * error && slope * half.len() as f64 > 2048.;
    if grows {
        println!("miss: memory grows");
    }
    constant && !grows
}

/// The slope of a line through these values, and its standard error.
fn slope(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let (middle, mean) = ((count - 1.) / 2., values.iter().sum::<f64>() / count);
    let spread: f64 = (0..values.len()).map(|x| (x as f64 - middle).powi(2)).sum();
    let slope = values.iter().enumerate().map(|(x, y)| (x as f64 - middle) * (y - mean)).sum::<f64>() / spread;
    let residual = |(x, y): (usize, &f64)| (y - mean - slope * (x as f64 - middle)).powi(2);
    let rest: f64 = values.iter().enumerate().map(residual).sum();
    (slope, (rest / (count - 2.) / spread).sqrt())
}
