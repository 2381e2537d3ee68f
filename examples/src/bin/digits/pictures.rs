//! Pictures of what the pipeline did.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use pipe_examples::digits::Dataset;
use pipe_runtime::schedule::{Costs, simulate};
use pipe_runtime::{Pipe, Trace};
use tch::{Device, Tensor};

use crate::model::Digits;

/// Number of recorded steps, which is enough for medians.
const STEPS: usize = 10;

/// Default folder for the pictures.
pub fn default_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/digits")
}

/// Records some training steps on `batch`, whose labels are moved to the `last` stage's device. The
/// steps leave gradients, and change no weight.
pub fn record(pipe: &mut Pipe<Digits>, batch: &Dataset, last: Device) -> Result<Trace> {
    let labels = batch.labels.to_device(last);
    step(pipe, &batch.images, &labels)?;
    pipe.start_trace();
    for _ in 0..STEPS {
        step(pipe, &batch.images, &labels)?;
    }
    Ok(pipe.stop_trace()?)
}

fn step(pipe: &mut Pipe<Digits>, images: &Tensor, labels: &Tensor) -> Result<()> {
    pipe.train_step(images, labels, |logits, labels: &Tensor| logits.cross_entropy_for_logits(labels))?;
    Ok(())
}

/// Draws a step as scheduled and as it ran, writes the trace for Perfetto, and prints the files.
pub fn draw(trace: &Trace, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let lists = &trace.typical().schedule;
    let schedule = simulate(lists, &Costs::equal(lists.stages, 1., 1., 1.))?;
    let pictures = [
        (
            "schedule.svg",
            "the schedule, if all stages were equal and forward and backward took 1 and 2",
            schedule.to_svg(),
        ),
        ("trace.svg", "a step as it ran, above the simulated one", trace.to_svg()),
        ("digits.pipe-trace.json", "all recorded steps, for https://ui.perfetto.dev", trace.to_chrome()),
    ];
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    for (name, what, text) in pictures {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}: {what}", path.display());
    }
    Ok(())
}
