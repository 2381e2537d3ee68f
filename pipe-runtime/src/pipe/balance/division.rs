//! The division of the layers: what they and what crosses between them cost.

use pipe_schedule::support::partition::{Chain, Misfit, Price, Recompute, Skip};
use pipe_schedule::support::recompute::Inside;

use super::traffic::{SkipTraffic, Traffic};
use super::{Balance, LayerProfile, Measure};
use crate::error::{Error, Result};
use crate::model::{Devices, Layer, Model};

/// How often a partition is found again at most.
const ROUNDS: usize = 8;

impl<M> Balance<'_, M>
where
    M: Model + Layer<M::Input, Out = M::Output>,
{
    /// Divides the layers. Which skips go to another process depends on the partition, so it is
    /// found again until both agree, and of all that were found, the best one is taken. With one
    /// process, or one for each stage, the first one is it.
    pub(super) fn partition(
        &self,
        measure: Measure,
        chain: &mut Chain,
        prices: &[Price],
        process_of: &[usize],
        traffic: &Traffic,
    ) -> Result<Vec<usize>, Misfit> {
        let stages = prices.len() + 1;
        let [local, message] = match measure == Measure::Size {
            true => [Price::default(); 2],
            false => self.local_and_message(),
        };
        let process = |partition: &[usize], layer: usize| {
            let mut ends = partition.iter().scan(0, |end, count| {
                *end += count;
                Some(*end)
            });
            ends.position(|end| layer < end).and_then(|stage| process_of.get(stage).copied())
        };
        let leaves = |partition: &[usize]| -> Vec<bool> {
            traffic.skips.iter().map(|skip| process(partition, skip.from) != process(partition, skip.to)).collect()
        };
        let price = |chain: &mut Chain, leaves: &[bool]| {
            for ((skip, traffic), &leaves) in chain.skips.iter_mut().zip(&traffic.skips).zip(leaves) {
                skip.cost = if leaves { message } else { local }.of(traffic.crossed.total() as f64);
            }
        };
        let worst = |chain: &Chain, partition: &[usize]| {
            let mut first = 0;
            let stages = partition.iter().enumerate().map(|(stage, count)| {
                let range = first..first + count;
                first = range.end;
                chain.cost(stage, range, prices)
            });
            stages.fold(0., f64::max)
        };
        let several = process_of.iter().any(|process| *process != process_of[0]);
        let mut assumed = vec![several; traffic.skips.len()];
        let mut best: Option<(f64, Vec<usize>)> = None;
        for _ in 0..ROUNDS {
            price(chain, &assumed);
            let found = chain.partition(stages, prices)?;
            let really = leaves(&found);
            price(chain, &really);
            let cost = worst(chain, &found);
            if best.as_ref().is_none_or(|(least, _)| cost < *least) {
                best = Some((cost, found));
            }
            if really == assumed {
                break;
            }
            assumed = really;
        }
        let (_, partition) = best.ok_or(Misfit::NoStages)?;
        price(chain, &leaves(&partition));
        Ok(partition)
    }

    /// What crossing a boundary within a process costs, and what a message costs.
    fn local_and_message(&self) -> [Price; 2] {
        let local = Price { each: 0., per_byte: self.seconds_per_byte };
        let message = self.processes.map_or(local, |(_, price)| Price {
            // One there, and one back.
            each: 2. * price.latency.as_secs_f64(),
            per_byte: price.seconds_per_byte.max(self.seconds_per_byte),
        });
        [local, message]
    }

    /// What each boundary between two stages costs.
    pub(super) fn prices(&self, measure: Measure, stages: usize, process_of: &[usize]) -> Vec<Price> {
        let [local, message] = match measure {
            Measure::Time => self.local_and_message(),
            Measure::Size => [Price::default(); 2],
        };
        let price = |boundary: usize| match (process_of.get(boundary), process_of.get(boundary + 1)) {
            (Some(before), Some(after)) if before != after => message,
            _ => local,
        };
        (0..stages - 1).map(price).collect()
    }

    /// The process of each stage: those that were asked for, or the annotated ones if the stages
    /// are the annotated ones; empty otherwise.
    pub(super) fn process_of(&self, stages: usize, devices_known: bool) -> Result<Vec<usize>> {
        let devices = self.stage_devices(stages, devices_known);
        match self.processes {
            Some((0, _)) => Err(Error::Setting("there must be at least one process".into())),
            Some((count, _)) => devices.process_of(count),
            None => Ok(devices.annotated_processes().unwrap_or_default().to_vec()),
        }
    }

    /// The devices of so many stages, with the schedule that they are for.
    fn stage_devices(&self, stages: usize, devices_known: bool) -> Devices {
        let annotated = Devices::annotated::<M>();
        let devices = match &self.devices {
            Some(given) => given.clone(),
            None if devices_known && annotated.as_slice().len() == stages => annotated,
            // Each stage is on a device of its own.
            None => Devices::cpu(stages),
        };
        match self.recompute {
            Some(kind) => devices.for_schedule(kind, None),
            None => devices.or_for_schedule(M::DEFAULTS.schedule),
        }
    }

    /// For each stage, how many micro-batches are in flight at most.
    pub(super) fn in_flight(&self, stages: usize, devices_known: bool, chunks: usize) -> Result<Vec<usize>> {
        let (kind, rank_of) = self.stage_devices(stages, devices_known).rank_of()?;
        let schedule = kind.schedule_on(&rank_of, chunks).map_err(|error| Error::Setting(error.to_string()))?;
        Ok(schedule.peak_in_flight_by_stage().into_values().collect())
    }

    pub(super) fn chain(
        &self,
        measure: Measure,
        layers: &[LayerProfile],
        traffic: &Traffic,
        in_flight: Option<Vec<usize>>,
    ) -> Chain {
        let fixed = |layer: &LayerProfile| layer.parameter_bytes as f64 * self.param_scale + layer.buffer_bytes as f64;
        let sizes: Vec<f64> = layers.iter().map(|layer| fixed(layer) + layer.activation_bytes as f64).collect();
        let inside = |layer: &LayerProfile| Inside {
            fixed: fixed(layer),
            kept: layer.activation_bytes as f64,
            remaining: layer.recomputed_bytes as f64,
            seconds: layer.forward.as_secs_f64(),
        };
        let recompute = in_flight.map(|in_flight| Recompute { layers: layers.iter().map(inside).collect(), in_flight });
        let costs = match measure {
            Measure::Time => {
                let cost = |layer: &LayerProfile| (layer.forward + layer.backward).as_secs_f64();
                layers.iter().map(cost).collect()
            }
            Measure::Size => sizes.clone(),
        };
        let skip = |skip: &SkipTraffic| Skip { from: skip.from, to: skip.to, cost: 0. };
        Chain {
            costs,
            sizes,
            boundaries: traffic.boundaries.iter().map(|crossed| crossed.total() as f64).collect(),
            skips: traffic.skips.iter().map(skip).collect(),
            limit: self.memory_limit.map(|limit| limit as f64),
            recompute,
        }
    }
}
