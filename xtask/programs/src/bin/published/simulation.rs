//! Steps that are simulated with measured layers.

use anyhow::{Context, Result};
use pipe_runtime::schedule::{Division, LayerCandidate, LayerOptions, Layers, Units, advise_layers, gpipe, simulate};
use pipe_runtime::{Checkpoint, ScheduleKind};

/// A model's layers, measured with a micro-batch of few rows.
#[derive(Debug)]
pub struct Measured {
    pub layers: Layers,
    pub rows: usize,
}

/// A simulated step.
#[derive(Clone, Debug)]
pub struct Step {
    /// Images per second.
    pub throughput: f64,
    /// Peak of the device that needs most, in bytes.
    pub memory: f64,
    /// The number of layers in each stage.
    pub stages: Vec<usize>,
}

/// A way to run the model that was searched for.
#[derive(Clone, Debug)]
pub struct Found {
    pub step: Step,
    pub schedule: ScheduleKind,
    pub checkpoint: Checkpoint,
    /// The number of layers that are recomputed.
    pub recomputed: usize,
}

/// What is searched for, of a mini-batch of `chunks` micro-batches of `rows` images.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'s> {
    pub devices: usize,
    pub chunks: usize,
    pub rows: usize,
    pub schedules: &'s [ScheduleKind],
    pub checkpoints: &'s [Checkpoint],
    pub stages_per_device: usize,
    pub memory: f64,
}

impl Measured {
    /// The costs of micro-batches of so many rows. Times and activations are proportional to rows,
    /// and variables have no rows.
    fn scaled(&self, rows: usize, micro_batches: usize) -> Layers {
        let factor = rows as f64 / self.rows as f64;
        let mut layers = self.layers.clone();
        layers.micro_batches = micro_batches;
        for layer in &mut layers.layers {
            for cost in [
                &mut layer.forward,
                &mut layer.backward_input,
                &mut layer.backward_weight,
                &mut layer.kept,
                &mut layer.remaining,
                &mut layer.between_halves,
                &mut layer.forward_peak,
                &mut layer.backward_peak,
            ] {
                *cost *= factor;
            }
        }
        let skips = layers.skips.iter_mut().map(|skip| &mut skip.crossing);
        for crossing in layers.boundaries.iter_mut().chain(skips) {
            let transfer = &mut crossing.transfer;
            let costs = [&mut transfer.size, &mut transfer.gradient, &mut crossing.values, &mut crossing.received];
            costs.into_iter().for_each(|cost| *cost *= factor);
        }
        layers
    }

    /// Images per second of the whole model on one device, without a pipeline.
    pub fn unpipelined(&self) -> f64 {
        let layers = self.layers.layers.iter();
        let step: f64 = layers.map(|layer| layer.forward + layer.backward_input + layer.backward_weight).sum();
        self.rows as f64 / step
    }

    /// A step of torchgpipe: GPipe's order, with these layers on each device. It recomputes every
    /// checkpointed micro-batch, also where its backward comes right after its forward.
    pub fn torchgpipe(&self, stages: &[usize], chunks: usize, rows: usize, checkpoint: Checkpoint) -> Result<Step> {
        let layers = self.scaled(rows, chunks);
        let devices: Vec<_> = (0..stages.len()).collect();
        let schedule = gpipe(&devices, chunks, |micro_batch| checkpoint.applies(micro_batch, chunks));
        let division = Division { stages: stages.to_vec(), recomputed: Vec::new() };
        let simulation = simulate(&schedule, &layers.costs(&division, false, 0.))?;
        Ok(Step {
            throughput: (chunks * rows) as f64 / simulation.makespan,
            memory: simulation.memory.iter().copied().fold(0., f64::max),
            stages: stages.to_vec(),
        })
    }

    /// The fastest of the wanted ways; `None` if none of them fits, or if no schedule takes so many
    /// micro-batches.
    pub fn fastest(&self, wanted: &Wanted<'_>) -> Result<Option<Found>> {
        let options = LayerOptions {
            stages_per_rank: wanted.stages_per_device,
            schedules: wanted.schedules.to_vec(),
            checkpoints: wanted.checkpoints.to_vec(),
            units: Units::SecondsAndBytes,
            ..LayerOptions::new(wanted.devices)
        };
        let layers = self.scaled(wanted.rows, wanted.chunks);
        let advice = advise_layers(&[layers], wanted.memory, &options).context("the layers do not fit")?;
        Ok(advice.best.map(|LayerCandidate { candidate, division, .. }| Found {
            step: Step {
                throughput: (wanted.chunks * wanted.rows) as f64 / candidate.time,
                memory: candidate.memory,
                stages: division.stages,
            },
            schedule: candidate.kind,
            checkpoint: candidate.checkpoint,
            recomputed: division.recomputed.iter().filter(|&&recomputed| recomputed).count(),
        }))
    }
}
