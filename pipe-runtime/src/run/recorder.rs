use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;
use std::time::Instant;

use pipe_schedule::{Action, Costs, Order, Run, Schedule, Skip, StageCosts, Trace, TracedStep, Transfer};
use serde::{Deserialize, Serialize};
use tch::Device;

use super::built_pipeline::BuiltPipeline;
use crate::error::{Error, Result};
use crate::lock::lock;
use crate::stages::{Crossing, Route, crossings};
use crate::torch::{ByHolder, Meter};

/// What was held in a trace, in bytes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held {
    /// For each stage, what it held when its rank held most, beyond its parameters and the
    /// optimizer's state.
    pub(crate) measured: Vec<ByHolder>,
    /// For each rank, the peak of the simulation of the trace, with the parameters and without the
    /// optimizer's state.
    pub(crate) simulated: Vec<f64>,
}

/// Holds the recording of a pipeline's runs, while there is one.
#[derive(Default)]
pub(crate) struct Recorder {
    recording: Mutex<Option<Arc<Recording>>>,
    /// What the last trace that was stopped has measured.
    held: Mutex<Held>,
}

impl Recorder {
    /// Starts a recording. A previous one that was not stopped is lost.
    pub(crate) fn start(&self, stages: usize, routes: usize) {
        *lock(&self.recording) = Some(Arc::new(Recording {
            begin: Instant::now(),
            runs: Mutex::default(),
            threads: Mutex::default(),
            activations: (0..stages).map(|_| Mutex::default()).collect(),
            sizes: (0..stages).map(|_| Mutex::default()).collect(),
            held: Mutex::new(vec![ByHolder::default(); stages]),
            optimizer: Mutex::new(vec![0; stages]),
            gradients: (0..routes).map(|_| Mutex::default()).collect(),
            waiting: (0..routes).map(|_| Mutex::default()).collect(),
            carried: (0..routes).map(|_| Mutex::default()).collect(),
        }));
    }

    /// The current recording, if there is one.
    pub(crate) fn current(&self) -> Option<Arc<Recording>> {
        lock(&self.recording).clone()
    }

    pub(crate) fn stop(&self) -> Option<Arc<Recording>> {
        lock(&self.recording).take()
    }

    /// What was held in the last trace that was stopped, on CPUs.
    pub(crate) fn held(&self) -> Held {
        lock(&self.held).clone()
    }

    /// Records what the ranks have held in a trace.
    pub(crate) fn has_held(&self, recording: &Recording, trace: &Trace, rank_of: &[usize]) {
        let mut simulated = trace.simulated().map_or_else(|_| Vec::new(), |simulation| simulation.memory);
        for (&bytes, &rank) in lock(&recording.optimizer).iter().zip(rank_of) {
            simulated.get_mut(rank).into_iter().for_each(|peak| *peak -= bytes as f64);
        }
        *lock(&self.held) = Held { measured: lock(&recording.held).clone(), simulated };
    }
}

/// The contents of a recording.
pub(crate) struct Recording {
    begin: Instant,
    /// The runs, each with the number of its call if other processes took part in it.
    runs: Mutex<Vec<(Option<u64>, Run)>>,
    /// The threads that have run steps, numbered in the order of their first step.
    threads: Mutex<Vec<ThreadId>>,
    /// For each stage, the bytes that the graph of a micro-batch holds, once it was measured.
    activations: Vec<Mutex<Option<u64>>>,
    /// For each stage on a CPU, the sizes that its steps have shown.
    sizes: Vec<Mutex<StageSizes>>,
    /// For each stage, what it held when its rank held most, in the run in which that was most.
    held: Mutex<Vec<ByHolder>>,
    /// For each stage, the bytes that the optimizer kept at the end.
    optimizer: Mutex<Vec<u64>>,
    /// For each route, the greatest number of bytes of a micro-batch's value.
    carried: Vec<Mutex<u64>>,
    /// For each route, the most that a value took before it was used, if it was metered: nothing if
    /// a graph held it anyway.
    waiting: Vec<Mutex<Option<u64>>>,
    /// For each route, the greatest number of bytes of the gradient of a micro-batch's value.
    gradients: Vec<Mutex<u64>>,
}

/// What the steps of a stage do to the memory of its rank, in bytes: the most of all micro-batches.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct StageSizes {
    /// What a whole backward frees of the micro-batch's graph.
    pub(crate) released: f64,
    /// What the first half of a backward frees; negative if it makes more for the second half.
    pub(crate) released_by_input: Option<f64>,
    /// What the second half frees.
    pub(crate) released_by_weight: f64,
    /// What a forward leaves that will be recomputed: its inputs; in the last stage, the gradient
    /// of the loss too.
    pub(crate) inputs: f64,
    /// What a recomputation leaves: the graph.
    pub(crate) remade: f64,
    /// Whether any step was metered.
    pub(crate) metered: bool,
    /// What a forward whose graph is kept, or a recomputation, holds at most, beyond what is there
    /// after it.
    pub(crate) forward_working: f64,
    /// What a whole backward holds at most, beyond what was there before it.
    pub(crate) backward_working: f64,
    /// The same for a backward for the inputs alone.
    pub(crate) input_working: f64,
    /// The same for a backward for the parameters alone.
    pub(crate) weight_working: f64,
}

/// One process's part of a recording.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RecordingPart {
    threads: usize,
    activations: Vec<Option<u64>>,
    carried: Vec<u64>,
    gradients: Vec<u64>,
    waiting: Vec<Option<u64>>,
    sizes: Vec<StageSizes>,
    optimizer: Vec<u64>,
    /// By the number of its call, the steps of a run: action, thread, start and end.
    runs: BTreeMap<u64, Vec<(String, usize, f64, f64)>>,
}

impl Recording {
    /// Returns the seconds since the trace started.
    pub(crate) fn now(&self) -> f64 {
        self.begin.elapsed().as_secs_f64()
    }

    /// The number of the calling thread.
    pub(crate) fn thread(&self) -> usize {
        let mut threads = lock(&self.threads);
        let this = std::thread::current().id();
        threads.iter().position(|&thread| thread == this).unwrap_or_else(|| {
            threads.push(this);
            threads.len() - 1
        })
    }

    /// The place for the bytes of a stage's graph, if they are not measured yet.
    pub(crate) fn activation(&self, stage: usize) -> &Mutex<Option<u64>> {
        &self.activations[stage]
    }

    /// The sizes of a stage.
    pub(crate) fn sizes(&self, stage: usize) -> &Mutex<StageSizes> {
        &self.sizes[stage]
    }

    /// Records what the stages on CPUs have held in a run that has ended.
    pub(crate) fn held(&self, meter: &Meter, pipeline: &BuiltPipeline) {
        let rank_of = pipeline.rank_of();
        let mut held = lock(&self.held);
        for rank in 0..rank_of.iter().max().map_or(0, |last| last + 1) {
            let is_counted = |stage: &usize| rank_of[*stage] == rank && pipeline.stages[*stage].device == Device::Cpu;
            let stages = (0..rank_of.len()).filter(is_counted);
            let found = stages.filter_map(|stage| Some((stage, meter.read(stage).ok()?.at_peak))).collect::<Vec<_>>();
            let sum = |bytes: &ByHolder| bytes.iter().sum::<i64>();
            let before: i64 = found.iter().map(|(stage, _)| sum(&held[*stage])).sum();
            if found.iter().map(|(_, bytes)| sum(bytes)).sum::<i64>() > before {
                found.into_iter().for_each(|(stage, bytes)| held[stage] = bytes);
            }
        }
    }

    /// Records the bytes that the optimizer keeps for each stage.
    pub(crate) fn optimizer_keeps(&self, bytes: Vec<u64>) {
        *lock(&self.optimizer) = bytes;
    }

    /// Records the bytes of a value on a route, and of its gradient.
    pub(crate) fn carries(&self, route: usize, bytes: u64, gradient: u64) {
        for (most, bytes) in [(&self.carried, bytes), (&self.gradients, gradient)] {
            let mut most = lock(&most[route]);
            *most = bytes.max(*most);
        }
    }

    /// Records the bytes that a value on a route takes while it waits.
    pub(crate) fn waits(&self, route: usize, bytes: u64) {
        let mut most = lock(&self.waiting[route]);
        *most = Some(most.map_or(bytes, |most| most.max(bytes)));
    }

    /// A run of these steps.
    pub(crate) fn run(order: &Order, stages: usize, micro_batches: usize, steps: Vec<TracedStep>) -> Run {
        let action = |&position: &usize| -> Action { order.steps[position].action };
        let ranks = order.ranks.iter().map(|list| list.iter().map(action).collect()).collect();
        Run { schedule: Schedule { stages, micro_batches, ranks }, steps }
    }

    /// Adds a run that has succeeded, with the number of its call if other processes took part.
    pub(crate) fn ran(&self, number: Option<u64>, run: Run) {
        lock(&self.runs).push((number, run));
    }

    /// This process's part of the recording, by a clock that is so many seconds ahead.
    pub(crate) fn part(&self, ahead: f64) -> RecordingPart {
        let step = |step: &TracedStep| (step.action.to_string(), step.thread, step.start + ahead, step.end + ahead);
        let runs = lock(&self.runs);
        let numbered = runs.iter().filter_map(|(number, run)| Some(((*number)?, run.steps.iter().map(step).collect())));
        RecordingPart {
            threads: lock(&self.threads).len(),
            activations: self.activations.iter().map(|bytes| *lock(bytes)).collect(),
            carried: self.carried.iter().map(|bytes| *lock(bytes)).collect(),
            gradients: self.gradients.iter().map(|bytes| *lock(bytes)).collect(),
            waiting: self.waiting.iter().map(|bytes| *lock(bytes)).collect(),
            sizes: self.sizes.iter().map(|sizes| *lock(sizes)).collect(),
            optimizer: lock(&self.optimizer).clone(),
            runs: numbered.collect(),
        }
    }

    /// Takes in the parts of all processes, its own included. Runs that failed in one of them are
    /// left out.
    pub(crate) fn join(&self, parts: &[RecordingPart], rank_of: &[usize]) {
        // A process keeps the state of its own stages alone.
        let kept = |stage| parts.iter().map(|part| part.optimizer[stage]).sum();
        self.optimizer_keeps((0..rank_of.len()).map(kept).collect());
        for part in parts {
            for (own, bytes) in self.activations.iter().zip(&part.activations) {
                let mut own = lock(own);
                *own = own.or(*bytes);
            }
            for (own, found) in self.sizes.iter().zip(&part.sizes).filter(|(_, found)| found.metered) {
                *lock(own) = *found;
            }
            for (route, bytes) in part.waiting.iter().enumerate() {
                bytes.iter().for_each(|&bytes| self.waits(route, bytes));
            }
            let sizes = part.carried.iter().zip(&part.gradients);
            (0..).zip(sizes).for_each(|(route, (&bytes, &gradient))| self.carries(route, bytes, gradient));
        }
        let mut runs = lock(&self.runs);
        runs.retain_mut(|(number, run)| {
            run.steps.clear();
            let mut threads = 0;
            for part in parts {
                let Some(steps) = number.and_then(|number| part.runs.get(&number)) else { return false };
                run.steps.extend(steps.iter().filter_map(|(action, thread, start, end)| {
                    let action: Action = action.parse().ok()?;
                    let rank = *rank_of.get(action.stage)?;
                    Some(TracedStep { action, rank, thread: threads + thread, start: *start, end: *end })
                }));
                threads += part.threads;
            }
            run.steps.sort_by(|a, b| a.end.total_cmp(&b.end));
            true
        });
    }

    /// Makes the trace from the runs, with the measured sizes.
    /// `message` returns the seconds that so many bytes take from a stage to another one, beside
    /// the actions.
    pub(crate) fn finish(
        &self,
        routes: &[Route],
        parameters: &[(u64, u64)],
        message: impl Fn(usize, usize, f64) -> f64,
    ) -> Result<Trace> {
        let runs = std::mem::take(&mut *lock(&self.runs)).into_iter().map(|(_, run)| run).collect();
        let optimizer = lock(&self.optimizer).clone();
        let carried: Vec<_> = self.carried.iter().map(|bytes| *lock(bytes) as f64).collect();
        let stage = |(stage, &(parameters, gradients)): (usize, &(u64, u64))| {
            let sizes = *lock(&self.sizes[stage]);
            let halves = sizes.released_by_input.unwrap_or(0.) + sizes.released_by_weight;
            // What the backward frees is what was held for it: the stage's own tensors, and those
            // that it received and saved.
            let freed = sizes.released.max(halves);
            let activation = match (sizes.remade > 0., freed > 0.) {
                // As without recomputation: with what it received.
                (true, _) => sizes.remade + sizes.inputs,
                (false, true) => freed,
                (false, false) => lock(&self.activations[stage]).unwrap_or(0) as f64,
            };
            // On a CPU, micro-batches are views of the caller's inputs.
            let is_given = |route: &Route| route.to == Some(stage) && (route.from.is_some() || !sizes.metered);
            let given = routes.iter().zip(&carried).filter(|(route, _)| is_given(route));
            StageCosts {
                forward: 0.,
                backward_input: 0.,
                backward_weight: 0.,
                recompute: 0.,
                activation,
                // Without a meter, the graph of a split backward counts as freed as a whole.
                for_weights: if sizes.released_by_weight > 0. { sizes.released_by_weight } else { activation },
                checkpoint: if sizes.inputs > 0. {
                    sizes.inputs
                } else {
                    given.map(|(_, bytes)| bytes).fold(0., |sum, bytes| sum + bytes)
                },
                forward_working: sizes.forward_working,
                // Where one of the two has not run, the other one stands for it.
                backward_working: if sizes.released > 0. { sizes.backward_working } else { sizes.input_working },
                input_working: if sizes.released_by_input.is_some() {
                    sizes.input_working
                } else {
                    sizes.backward_working
                },
                weight_working: sizes.weight_working,
                parameters: (parameters + optimizer[stage]) as f64,
                gradients: gradients as f64,
            }
        };
        let stages: Vec<_> = parameters.iter().enumerate().map(stage).collect();
        let mut boundaries = vec![Transfer::default(); stages.len().saturating_sub(1)];
        let mut skips = Vec::new();
        for Crossing { route, from, to, is_skip } in crossings(routes) {
            let size = lock(&self.waiting[route]).map_or(carried[route], |bytes| bytes as f64);
            let gradient = *lock(&self.gradients[route]) as f64;
            let transfer = Transfer { time: message(from, to, carried[route]), size, gradient };
            match is_skip {
                true => skips.push(Skip { from, to, transfer }),
                false => boundaries[from] = transfer,
            }
        }
        Trace::new(runs, Costs { stages, boundaries, skips }).ok_or_else(|| {
            Error::Setting("nothing has run since the trace was started: run some steps in between".into())
        })
    }
}
