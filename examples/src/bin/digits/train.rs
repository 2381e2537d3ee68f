//! Training and testing. The code is that of a plain tch model, with `pipe.forward` instead of
//! `model.forward_t`.

use std::f64::consts::PI;
use std::time::Instant;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use pipe_runtime::Pipe;
use tch::nn::{self, OptimizerConfig};
use tch::{Device, Kind, Tensor};

use crate::data::Dataset;
use crate::model::{Digits, DigitsVars};

/// Trains for one epoch in a new random order, and returns the mean loss.
fn epoch(pipe: &mut Pipe<Digits>, optimizer: &mut nn::Optimizer, data: &Dataset, batch: i64) -> Result<f64> {
    let order = Tensor::randperm(data.rows(), (Kind::Int64, Device::Cpu));
    let batches = order.split(batch, 0);
    let bar = ProgressBar::new(batches.len() as u64);
    bar.set_style(ProgressStyle::with_template("{bar:30} {pos:>3}/{len} steps  {msg}")?);

    let (mut rows, mut loss_sum, mut correct_sum) = (0, 0.0, 0.0);
    for indices in &batches {
        let Dataset { images, labels } = data.select(indices);
        let logits = pipe.forward(&images)?;
        let labels = labels.to_device(logits.device());
        let loss = logits.cross_entropy_for_logits(&labels);
        optimizer.backward_step(&loss);

        rows += indices.numel();
        loss_sum += loss.double_value(&[]) * indices.numel() as f64;
        correct_sum += logits.accuracy_for_logits(&labels).double_value(&[]) * indices.numel() as f64;
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
#[derive(Clone, Copy, Debug)]
pub struct Course {
    pub epochs: usize,
    pub batch: i64,
    /// Learning rate of the first epoch. It falls to zero along a cosine.
    pub rate: f64,
}

impl Course {
    /// Trains, prints a line for each epoch, and returns the last test accuracy.
    pub fn run(self, pipe: &mut Pipe<Digits>, vars: &DigitsVars, train: &Dataset, held_out: &Dataset) -> Result<f64> {
        let mut optimizer = nn::Adam::default().build(vars.var_store(), self.rate)?;
        let mut accuracy = 0.0;
        for number in 1..=self.epochs {
            let begin = Instant::now();
            let done = (number - 1) as f64 / self.epochs as f64;
            optimizer.set_lr(self.rate * (1.0 + (PI * done).cos()) / 2.0);
            let loss = epoch(pipe, &mut optimizer, train, self.batch)?;
            accuracy = test(pipe, held_out)?;
            let (epochs, seconds) = (self.epochs, begin.elapsed().as_secs_f64());
            println!("epoch {number:>2}/{epochs}  train loss {loss:.4}  test accuracy {accuracy:.3}  {seconds:.1} s");
        }
        Ok(accuracy)
    }
}
