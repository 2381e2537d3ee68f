//! Advice with everything free: measures the layers, and finds the settings, the cuts and the
//! recomputed layers with which a step is fastest.

use std::fmt;

use pipe_schedule::support::{bytes, short};
use pipe_schedule::{
    Candidate, Crossing, LayerAdvice, LayerCandidate, LayerCosts, LayerOptions, LayerSkip, Layers, ScheduleKind,
    Transfer, Units, advise_layers,
};
use tch::{Device, Tensor};

use super::profile::{Bench, Measured, Observed, ObservedMemory, Passes};
use super::traffic::{Crossed, Traffic};
use super::{Balance, LayerProfile, Measure, Profile, SkipProfile, StageProfile};
use crate::error::{Error, Result};
use crate::flow::{IntoFlow, PackedValue, Scattered, scatter};
use crate::model::{CheapOutputs, Checkpoint, Layer, Model};
use crate::pipe::advise::HAND_OFF;
use crate::threads::IntraOpThreads;

/// The settings with which a training step is fastest: [`Balance::advise`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Choice {
    /// The schedule.
    pub schedule: ScheduleKind,
    /// The number of ranks.
    pub ranks: usize,
    /// The number of micro-batches.
    pub chunks: usize,
    /// The micro-batches that are recomputed.
    pub checkpoint: Checkpoint,
    /// What is done with cheap outputs.
    pub cheap_outputs: CheapOutputs,
    /// The simulated time of a step, in seconds.
    pub seconds: f64,
    /// The simulated peak of memory of the rank that needs most, in bytes.
    pub bytes: f64,
    /// How much more time this takes than a lower bound of all that fits, as a part of it: 0 if it
    /// is proved to be the best, according to the costs.
    pub gap: f64,
}

impl Choice {
    /// The settings to write: `schedule = zbv, chunks = 8, checkpoint = never, cheap_outputs =
    /// keep`.
    pub fn settings(&self) -> String {
        let Self { schedule, chunks, checkpoint, cheap_outputs, .. } = self;
        let schedule = schedule.as_setting();
        format!("schedule = {schedule}, chunks = {chunks}, checkpoint = {checkpoint}, cheap_outputs = {cheap_outputs}")
    }
}

/// Says what was chosen, and what it takes.
impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ranks, seconds, bytes: memory, gap, .. } = self;
        let time = Units::SecondsAndBytes.time(*seconds);
        write!(f, "{} on {ranks} ranks: {time} per step in {} per rank; ", self.settings(), bytes(*memory))?;
        match gap {
            0. => f.write_str("nothing that fits is faster, according to these costs"),
            gap => write!(f, "at most {} % above the fastest that fits, according to these costs", short(gap * 100.)),
        }
    }
}

/// The turns in which the treatments of cheap outputs are timed.
const ROUNDS: u32 = 3;

/// A way to treat cheap outputs, measured.
struct Variant {
    outputs: CheapOutputs,
    profiles: Vec<LayerProfile>,
    skips: Vec<SkipProfile>,
    layers: Layers,
    passes: usize,
    /// The rows of the micro-batch.
    rows: i64,
}

/// The micro-batch that is measured, of so many.
struct Sample<'s> {
    first: &'s PackedValue,
    micro_batches: usize,
    rows: i64,
}

impl<M> Balance<'_, M>
where
    M: Model + Layer<M::Input, Out = M::Output>,
{
    /// Finds the schedule, the number of micro-batches, the checkpoint mode, the treatment of cheap
    /// outputs, the cuts and the recomputed layers with which a training step on `ranks` devices is
    /// fastest, of those that need at most [`memory_limit`](Self::memory_limit) bytes on each.
    ///
    /// It measures every layer with [`chunks`](Self::chunks) micro-batches (by default the
    /// annotated number, or four for each rank), with half as many and with twice as many, and each
    /// time with the three treatments of cheap outputs: its forward, both parts of its backward,
    /// what it keeps, and the peaks while it runs. It then searches and simulates.
    /// [`param_scale`](Self::param_scale) counts the optimizer's state. The loss is not measured.
    ///
    /// The [`Profile`] has the stages and the recomputed layers; its [`choice`](Profile::choice)
    /// has the settings, the time and the memory. Written to a file, it has all of them, for
    /// `#[pipeline(balance = "balance.toml")]`.
    ///
    /// ```no_run
    /// use pipe_runtime::balance::Balance;
    /// # use pipe_runtime::{Layer, Model, Vars};
    /// # use tch::Tensor;
    /// # fn example<M>(net: &M, vars: &Vars, sample: Tensor) -> pipe_runtime::Result<()>
    /// # where M: Model<Input = Tensor> + Layer<Tensor, Out = M::Output>,
    /// # {
    ///
    /// let balance = Balance::of(net, vars).chunks(8).param_scale(4.); // Adam
    /// let profile = balance.memory_limit(8 << 30).advise(sample, 2)?; // 8 GiB on 2 devices each
    /// println!("{profile}");
    /// profile.write("balance.toml")?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Fails if nothing that fits was found, with the least memory that is needed; if `stages`,
    /// `recompute` or `processes` was set, which this chooses itself or does not know; and in the
    /// cases of [`by_time`](Self::by_time).
    pub fn advise(self, sample: impl IntoFlow<M::Input>, ranks: usize) -> Result<Profile> {
        let setting = |text: &str| Err(Error::Setting(text.into()));
        self.check()?;
        if ranks == 0 {
            return setting("there must be at least one rank");
        }
        if self.stages.is_some() || self.recompute.is_some() || self.processes.is_some() {
            return setting("`advise` chooses stages and recomputed layers, in one process: leave these settings out");
        }
        self.no_gradients()?;
        let (devices, devices_known) = self.devices_of_ranks(ranks)?;
        let chunks = self.chunks.or(M::DEFAULTS.chunks).unwrap_or_else(|| ranks.saturating_mul(4));
        let sample = PackedValue::of(sample.into_flow());
        let shares_memory = devices.iter().all(|device| device == "cpu");
        let mut variants: Vec<Variant> = Vec::new();
        for chunks in [chunks, chunks / 2, chunks.saturating_mul(2)].into_iter().filter(|&chunks| chunks > 0) {
            let Scattered { micro_batches, shape: batch, .. } = scatter(&sample, chunks, false)?;
            let first = micro_batches.first().ok_or_else(|| Error::Input("the sample is empty".into()))?;
            // A batch may have fewer rows.
            if variants.iter().all(|variant| variant.layers.micro_batches != micro_batches.len()) {
                let rows = batch.rows().first().copied().unwrap_or_default();
                let sample = Sample { first, micro_batches: micro_batches.len(), rows };
                variants.extend(self.variants(&sample, shares_memory, &CheapOutputs::ALL)?);
            }
        }
        let options = LayerOptions {
            overhead: HAND_OFF,
            units: Units::SecondsAndBytes,
            schedules: self.schedules.clone(),
            ..LayerOptions::new(ranks)
        };
        let limit = self.memory_limit.map_or(f64::INFINITY, |limit| limit as f64);
        let layers: Vec<_> = variants.iter().map(|variant| variant.layers.clone()).collect();
        let advice = advise_layers(&layers, limit, &options).map_err(|error| Error::Setting(error.to_string()))?;
        let Some(best) = advice.best.clone() else { return Err(nothing_fits(&advice, ranks, layers[0].layers.len())) };
        let Some(variant) = variants.into_iter().nth(best.variant) else { return setting("there is no such variant") };
        Ok(chosen::<M>(variant, &best, &advice, Ranks { devices, devices_known }))
    }

    /// Measures every layer and divides nothing. The result is for simulations of your own:
    /// [`Layers::costs`] makes the costs of stages of it, [`simulate`](pipe_schedule::simulate) the
    /// times of a step, and [`advise_layers`] searches with options that [`advise`](Self::advise)
    /// does not have.
    ///
    /// One micro-batch of [`chunks`](Self::chunks) is measured (the annotated number, or 1), as
    /// `advise` does it, with cheap outputs kept. Stages share their memory if all devices are the
    /// CPU; the [`devices`](Self::devices) that were set say otherwise.
    ///
    /// ```
    /// use pipe_runtime::schedule::{Checkpoint, Division, gpipe, simulate};
    /// use pipe_runtime::{Devices, balance::Balance, pipeline};
    /// use std::time::Duration;
    /// use tch::{Device, Kind, Tensor, nn};
    ///
    /// #[pipeline]
    /// struct Net {
    ///     #[devices("cpu", "cpu")]
    ///     layers: [nn::Linear; 4],
    /// }
    ///
    /// let vars = Net::vars(&Devices::cpu(Net::STAGES))?;
    /// let layers = vars.layers().map(|path| nn::linear(path, 64, 64, Default::default()));
    /// let net = Net { layers };
    /// let sample = Tensor::randn([32, 64], (Kind::Float, Device::Cpu));
    /// let layers = Balance::of(&net, &vars).timeout(Duration::from_millis(50)).costs(&sample)?;
    /// let division = Division { stages: vec![1, 3], recomputed: Vec::new() };
    /// let schedule = gpipe(&[0, 1], 8, |number| Checkpoint::ExceptLast.applies(number, 8));
    /// let step = simulate(&schedule, &layers.costs(&division, false, 0.))?;
    /// println!("{} s per step", step.makespan);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails in the cases of [`by_time`](Self::by_time) that are not about stages.
    pub fn costs(self, sample: impl IntoFlow<M::Input>) -> Result<Layers> {
        self.check()?;
        self.no_gradients()?;
        let chunks = self.chunks.or(M::DEFAULTS.chunks).unwrap_or(1);
        let sample = PackedValue::of(sample.into_flow());
        let Scattered { micro_batches, shape: batch, .. } = scatter(&sample, chunks, false)?;
        let first = micro_batches.first().ok_or_else(|| Error::Input("the sample is empty".into()))?;
        let rows = batch.rows().first().copied().unwrap_or_default();
        let sample = Sample { first, micro_batches: micro_batches.len(), rows };
        let shares_memory = match &self.devices {
            Some(devices) => devices.names().iter().all(|device| device == "cpu"),
            None => M::PLAN.stages.iter().all(|stage| stage.device == "cpu"),
        };
        let variants = self.variants(&sample, shares_memory, &[CheapOutputs::Keep])?;
        Ok(variants.into_iter().map(|variant| variant.layers).next().unwrap_or_default())
    }

    /// Measures the layers with each of these treatments of cheap outputs, of which the first one
    /// keeps them.
    fn variants(&self, sample: &Sample<'_>, shares_memory: bool, treatments: &[CheapOutputs]) -> Result<Vec<Variant>> {
        let first = sample.first;
        let device = self.device(|| first.tensors.first().map_or(Device::Cpu, |item| item.tensor.device()))?;
        let _threads = IntraOpThreads::choose(self.intra_op_threads, 1).enter();
        let bench = Bench::new(self.model, first, device, self.handles(|_| true), self.handles(|one| one.trained))?;
        let mut measured = Vec::new();
        for &outputs in treatments {
            bench.cheap_outputs(outputs);
            measured.push((outputs, bench.observe_pass()?, Passes::default()));
        }
        // In turns, so that a machine that becomes slower does so for all of them.
        let rounds = if measured.len() > 1 { ROUNDS } else { 1 };
        for _ in 0..rounds {
            for (outputs, (observed, _), passes) in &mut measured {
                bench.cheap_outputs(*outputs);
                bench.time(self.timeout / rounds, self.first_trained(observed).as_ref(), passes)?;
            }
        }
        let variant = |(outputs, (observed, memory), passes): (_, (Observed, ObservedMemory), Passes)| {
            self.variant(outputs, &observed, &memory, &passes.measured(), sample, shares_memory)
        };
        let mut variants: Vec<_> = measured.into_iter().map(variant).collect();
        // Between the halves of a split backward, cheap outputs are there again.
        let whole: Vec<f64> = variants[0].layers.layers.iter().map(|layer| layer.kept).collect();
        for variant in &mut variants {
            for (layer, &whole) in variant.layers.layers.iter_mut().zip(&whole) {
                layer.between_halves = whole.max(layer.kept);
            }
        }
        Ok(variants)
    }

    /// A trained tensor of the first layer that has one.
    fn first_trained(&self, observed: &Observed) -> Option<Tensor> {
        let of_layer = |key| self.variables.iter().find(|variable| variable.trained && variable.is_of(key));
        let variable = observed.layers.iter().find_map(|&key| of_layer(key))?;
        Some(variable.tensor.shallow_clone())
    }

    fn variant(
        &self,
        outputs: CheapOutputs,
        observed: &Observed,
        memory: &ObservedMemory,
        timed: &Measured,
        sample: &Sample<'_>,
        shares_memory: bool,
    ) -> Variant {
        let mut profiles: Vec<_> =
            observed.layers.iter().zip(&observed.kept).map(|(&key, &kept)| self.layer(key, kept)).collect();
        timed.tell(&mut profiles);
        let traffic = Traffic::new(&observed.reads, &observed.layers, &M::PLAN);
        for (layer, crossed) in profiles.iter_mut().zip(&traffic.boundaries) {
            layer.crossing_bytes = crossed.total();
        }
        let crossing = |crossed: Crossed| {
            let (values, kept) = (crossed.values as f64, crossed.kept as f64);
            Crossing {
                transfer: Transfer {
                    time: self.seconds_per_byte * values,
                    // On another device, it is a copy.
                    size: if shares_memory { values - kept } else { values },
                    gradient: crossed.gradients as f64,
                },
                values,
                received: if shares_memory { 0. } else { kept },
            }
        };
        let skips = traffic.skips.iter();
        let layer_skips =
            skips.clone().map(|skip| LayerSkip { from: skip.from, to: skip.to, crossing: crossing(skip.crossed) });
        let layers = Layers {
            micro_batches: sample.micro_batches,
            layers: self.layer_costs(&profiles, memory, timed),
            boundaries: traffic.boundaries.iter().map(|&crossed| crossing(crossed)).collect(),
            skips: layer_skips.collect(),
        };
        let skips = skips.map(SkipProfile::of).collect();
        Variant { outputs, profiles, skips, layers, passes: timed.passes, rows: sample.rows }
    }

    fn layer_costs(&self, profiles: &[LayerProfile], memory: &ObservedMemory, timed: &Measured) -> Vec<LayerCosts> {
        let all_kept: f64 = profiles.iter().map(|layer| layer.activation_bytes as f64).sum();
        // What earlier layers keep, and the gradients of later layers, which the backward returns.
        let mut below = 0.;
        let mut above: f64 = profiles.iter().map(|layer| layer.parameter_bytes as f64).sum();
        let costs = |(number, layer): (usize, &LayerProfile)| {
            let kept = layer.activation_bytes as f64;
            let gradients = layer.parameter_bytes as f64;
            above -= gradients;
            let peaks = memory.peaks[number];
            // The pass holds the model's output until its end.
            let output = if number + 1 < profiles.len() { memory.output as f64 } else { 0. };
            let forward_peak = peaks.forward as f64 - memory.before as f64 - below;
            let backward_peak = peaks.backward as f64 - (memory.between as f64 - all_kept) - below - above - output;
            below += kept;
            let backward = timed.medians.backward[number];
            let input = timed.backward_input.as_ref().map_or(backward, |input| input[number].min(backward));
            LayerCosts {
                forward: timed.medians.forward[number],
                backward_input: input,
                backward_weight: backward - input,
                kept,
                remaining: kept.min(layer.recomputed_bytes as f64),
                between_halves: kept,
                forward_peak: forward_peak.max(kept),
                backward_peak: backward_peak.max(kept),
                parameters: gradients * (self.param_scale - 1.).max(0.) + layer.buffer_bytes as f64,
                gradients,
            }
        };
        let mut costs: Vec<_> = profiles.iter().enumerate().map(costs).collect();
        even_out(profiles, timed, &mut costs);
        costs
    }

    /// The device of each rank, and whether they were set or annotated.
    fn devices_of_ranks(&self, ranks: usize) -> Result<(Vec<String>, bool)> {
        if let Some(devices) = &self.devices {
            let names = devices.names();
            if names.len() != ranks {
                return Err(Error::Setting(format!(
                    "{} devices were given for {ranks} ranks: give one for each rank",
                    names.len()
                )));
            }
            return Ok((names, true));
        }
        let mut annotated: Vec<String> = Vec::new();
        for stage in M::PLAN.stages {
            if !annotated.iter().any(|device| device == stage.device) {
                annotated.push(stage.device.to_owned());
            }
        }
        match annotated.as_slice() {
            [cpu] if cpu == "cpu" => Ok((vec![cpu.clone(); ranks], true)),
            several if several.len() == ranks && !several[0].is_empty() => Ok((annotated, true)),
            _ => Ok(((0..ranks).map(|rank| format!("cuda:{rank}")).collect(), false)),
        }
    }
}

/// The profile of the best way.
fn chosen<M: Model>(variant: Variant, best: &LayerCandidate, advice: &LayerAdvice, ranks: Ranks) -> Profile {
    let Variant { outputs, profiles: mut layers, skips, layers: costs, passes, rows } = variant;
    let Candidate { kind, ranks: count, stages_per_rank, micro_batches, checkpoint, time, memory, .. } = best.candidate;
    let stage_costs = costs.costs(&best.division, false, 0.).stages;
    let stages = best.division.ranges().zip(stage_costs).enumerate().map(|(stage, (range, cost))| {
        for number in range.clone() {
            layers[number].stage = stage;
            layers[number].recomputed = best.division.recomputed.get(number) == Some(&true);
        }
        StageProfile {
            device: ranks.devices[kind.rank_of(stage, count, stages_per_rank)].clone(),
            process: None,
            layers: range,
            cost: cost.forward + cost.backward_input + cost.backward_weight,
            memory_bytes: (cost.parameters + cost.gradients + cost.activation) as u64,
        }
    });
    let stages = stages.collect();
    let choice = Choice {
        schedule: kind,
        ranks: count,
        chunks: micro_batches,
        checkpoint,
        cheap_outputs: outputs,
        seconds: time,
        bytes: memory,
        gap: advice.gap().unwrap_or_default(),
    };
    Profile {
        model: M::PLAN.name,
        measure: Measure::Time,
        passes,
        rows,
        layers,
        stages,
        skips,
        devices_known: ranks.devices_known,
        recomputes: checkpoint == Checkpoint::Never,
        choice: Some(choice),
    }
}

/// Gives neighbours in a repeated layer that have equal sizes the same times, unless these differ
/// by more than they spread: so no cut rests on noise.
fn even_out(profiles: &[LayerProfile], timed: &Measured, costs: &mut [LayerCosts]) {
    let alike = |a: &LayerProfile, b: &LayerProfile| {
        let sizes = |layer: &LayerProfile| (layer.parameter_bytes, layer.buffer_bytes, layer.activation_bytes);
        a.name == b.name && a.index.is_some() && sizes(a) == sizes(b)
    };
    let mut first = 0;
    for group in profiles.chunk_by(alike) {
        let range = first..first + group.len();
        first = range.end;
        let whole = |cost: &LayerCosts| cost.forward + cost.backward_input + cost.backward_weight;
        let times = costs[range.clone()].iter().map(whole);
        let (least, most) = times.fold((f64::INFINITY, 0_f64), |(least, most), time| (least.min(time), most.max(time)));
        let spread = timed.spread[range.clone()].iter().copied().fold(0., f64::max);
        if most - least > spread {
            continue;
        }
        for time in [
            (|cost| &mut cost.forward) as fn(&mut LayerCosts) -> &mut f64,
            |cost| &mut cost.backward_input,
            |cost| &mut cost.backward_weight,
        ] {
            let group = &mut costs[range.clone()];
            let mean = group.iter_mut().map(|cost| *time(cost)).sum::<f64>() / group.len() as f64;
            group.iter_mut().for_each(|cost| *time(cost) = mean);
        }
    }
}

/// Where the chosen stages run.
struct Ranks {
    devices: Vec<String>,
    devices_known: bool,
}

fn nothing_fits(advice: &LayerAdvice, ranks: usize, layers: usize) -> Error {
    Error::Setting(match &advice.smallest {
        Some(smallest) => format!(
            "nothing was found that fits into {} per rank: the smallest, {}, needs {}",
            bytes(advice.memory_limit),
            smallest.candidate,
            bytes(smallest.candidate.memory)
        ),
        None => format!("sequence is shorter than intended partitions ({layers} < {ranks}): every rank needs a layer"),
    })
}
