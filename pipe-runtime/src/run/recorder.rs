use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;
use std::time::Instant;

use pipe_schedule::{Action, Costs, Order, Run, Schedule, Skip, StageCosts, Trace, TracedStep, Transfer};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::lock::lock;
use crate::stages::{Crossing, Route, crossings};

/// Holds the recording of a pipeline's runs, while there is one.
#[derive(Default)]
pub(crate) struct Recorder(Mutex<Option<Arc<Recording>>>);

impl Recorder {
    /// Starts a recording. A previous one that was not stopped is lost.
    pub(crate) fn start(&self, stages: usize, routes: usize) {
        *lock(&self.0) = Some(Arc::new(Recording {
            begin: Instant::now(),
            runs: Mutex::default(),
            threads: Mutex::default(),
            activations: (0..stages).map(|_| Mutex::default()).collect(),
            carried: (0..routes).map(|_| Mutex::default()).collect(),
        }));
    }

    /// The current recording, if there is one.
    pub(crate) fn current(&self) -> Option<Arc<Recording>> {
        lock(&self.0).clone()
    }

    pub(crate) fn stop(&self) -> Option<Arc<Recording>> {
        lock(&self.0).take()
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
    /// For each route, the greatest number of bytes of a micro-batch's value.
    carried: Vec<Mutex<u64>>,
}

/// One process's part of a recording.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RecordingPart {
    threads: usize,
    activations: Vec<Option<u64>>,
    carried: Vec<u64>,
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

    /// Records the bytes of a value on a route.
    pub(crate) fn carries(&self, route: usize, bytes: u64) {
        let mut most = lock(&self.carried[route]);
        *most = bytes.max(*most);
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
            runs: numbered.collect(),
        }
    }

    /// Takes in the parts of all processes, its own included. Runs that failed in one of them are
    /// left out.
    pub(crate) fn join(&self, parts: &[RecordingPart], rank_of: &[usize]) {
        for part in parts {
            for (own, bytes) in self.activations.iter().zip(&part.activations) {
                let mut own = lock(own);
                *own = own.or(*bytes);
            }
            (0..).zip(&part.carried).for_each(|(route, &bytes)| self.carries(route, bytes));
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
        parameters: &[u64],
        message: impl Fn(usize, usize, f64) -> f64,
    ) -> Result<Trace> {
        let runs = std::mem::take(&mut *lock(&self.runs)).into_iter().map(|(_, run)| run).collect();
        let carried: Vec<_> = self.carried.iter().map(|bytes| *lock(bytes) as f64).collect();
        let stage = |(stage, &parameters): (usize, &u64)| {
            let activation = lock(&self.activations[stage]).unwrap_or(0) as f64;
            let given = routes.iter().zip(&carried).filter(|(route, _)| route.to == Some(stage));
            StageCosts {
                forward: 0.,
                backward_input: 0.,
                backward_weight: 0.,
                recompute: 0.,
                activation,
                // The graph of a split backward is freed as a whole.
                for_weights: activation,
                checkpoint: given.map(|(_, bytes)| bytes).sum(),
                parameters: parameters as f64,
            }
        };
        let stages: Vec<_> = parameters.iter().enumerate().map(stage).collect();
        let mut boundaries = vec![Transfer::default(); stages.len().saturating_sub(1)];
        let mut skips = Vec::new();
        for Crossing { route, from, to, is_skip } in crossings(routes) {
            let transfer = Transfer { time: message(from, to, carried[route]), size: carried[route] };
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
