//! Training and testing, with checkpoints to go on from.

use std::f64::consts::PI;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use pipe_examples::digits::Dataset;
use pipe_runtime::optim::{Adam, LrSchedule};
use pipe_runtime::{Checkpoints, Pipe, Trainer};
use tch::{Device, Kind, Tensor};

use crate::model::Digits;

/// Trains for one epoch in a new random order, and returns the mean loss.
fn epoch(trainer: &mut Trainer<Digits>, data: &Dataset, batch: i64, last: Device, prints: bool) -> Result<f64> {
    let order = Tensor::randperm(data.rows(), (Kind::Int64, Device::Cpu));
    let batches = order.split(batch, 0);
    let bar = if prints { ProgressBar::new(batches.len() as u64) } else { ProgressBar::hidden() };
    bar.set_style(ProgressStyle::with_template("{bar:30} {pos:>3}/{len} steps  {msg}")?);

    let (mut rows, mut loss_sum, mut correct_sum) = (0, 0.0, 0.0);
    for indices in &batches {
        let Dataset { images, labels } = data.select(indices);
        let labels = labels.to_device(last);
        let cross_entropy = |logits: &Tensor, labels: &Tensor| logits.cross_entropy_for_logits(labels);
        let report = trainer.step_by(|step| step.keep_output().run(&images, &labels, cross_entropy))?.step;

        rows += indices.numel();
        loss_sum += report.loss.double_value(&[]) * indices.numel() as f64;
        correct_sum += report.output.accuracy_for_logits(&labels).double_value(&[]) * indices.numel() as f64;
        bar.set_message(format!("loss {:.4}  accuracy {:.3}", loss_sum / rows as f64, correct_sum / rows as f64));
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(loss_sum / rows as f64)
}

/// Accuracy in evaluation mode, from 0 to 1.
fn test(pipe: &mut Pipe<Digits>, data: &Dataset) -> Result<f64> {
    let logits = pipe.predict(&data.images)?;
    Ok(logits.accuracy_for_logits(&data.labels.to_device(logits.device())).double_value(&[]))
}

/// Settings of a training.
#[derive(Clone, Debug)]
pub struct Course {
    pub epochs: usize,
    pub batch: i64,
    /// Learning rate of the first epoch. It falls to zero along a cosine.
    pub rate: f64,
    /// The last epoch of this run.
    pub stop_after: Option<usize>,
    /// The folder for a checkpoint after each epoch.
    pub checkpoints: Option<PathBuf>,
    /// Whether to go on from the newest checkpoint.
    pub resume: bool,
    /// Whether this process prints the lines.
    pub prints: bool,
}

impl Course {
    /// Trains, prints a line for each epoch, and returns the pipeline with the last test accuracy.
    /// The accuracy is `None` if the training was stopped before its end.
    pub fn run(
        &self,
        pipe: Pipe<Digits>,
        last: Device,
        train: &Dataset,
        held_out: &Dataset,
    ) -> Result<(Pipe<Digits>, Option<f64>)> {
        // Each epoch has one learning rate.
        let (epochs, batches) = (self.epochs, (train.rows() as u64).div_ceil(self.batch as u64));
        let fall = move |updates: u64| (1.0 + (PI * (updates / batches) as f64 / epochs as f64).cos()) / 2.0;
        let optimizer = pipe.optimizer(Adam { lr: self.rate, ..Adam::default() });
        let optimizer = optimizer.lr_schedule(LrSchedule::custom(fall)).build()?;
        let mut trainer = Trainer::new(pipe, optimizer)?;

        let mut checkpoints = self.checkpoints.as_ref().map(|folder| Checkpoints::in_folder(folder).keep(2));
        if let (Some(checkpoints), true) = (&mut checkpoints, self.resume) {
            ensure!(checkpoints.resume(&mut trainer)?, "there is no checkpoint to go on from");
        }
        let done = trainer.value("epoch")?.unwrap_or(0);
        let mut accuracy = trainer.value("accuracy")?;
        let stop = self.stop_after.unwrap_or(self.epochs).min(self.epochs);
        for number in done + 1..=stop {
            let begin = Instant::now();
            let loss = epoch(&mut trainer, train, self.batch, last, self.prints)?;
            let now = test(trainer.pipe(), held_out)?;
            accuracy = Some(now);
            let seconds = begin.elapsed().as_secs_f64();
            if self.prints {
                println!("epoch {number:>2}/{epochs}  train loss {loss:.4}  test accuracy {now:.3}  {seconds:.1} s");
            }
            trainer.set_value("epoch", number);
            trainer.set_value("accuracy", now);
            if let Some(checkpoints) = &mut checkpoints {
                checkpoints.save_in_background(&trainer)?;
            }
        }
        if let Some(checkpoints) = &mut checkpoints {
            checkpoints.finish()?;
        }
        Ok((trainer.into_parts().0, accuracy.filter(|_| stop == self.epochs)))
    }
}
