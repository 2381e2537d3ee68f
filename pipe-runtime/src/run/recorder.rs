use std::sync::{Arc, Mutex};
use std::thread::ThreadId;
use std::time::Instant;

use pipe_schedule::{Action, Costs, Order, Run, Schedule, Skip, StageCosts, Trace, TracedStep, Transfer};

use crate::error::{Error, Result};
use crate::lock::lock;
use crate::stages::{Crossing, Route, crossings};

/// Records the runs of a pipeline while a trace is active.
#[derive(Default)]
pub(crate) struct Recorder(Mutex<Option<Arc<Recording>>>);

impl Recorder {
    /// Starts a recording. One that is still active is discarded.
    pub(crate) fn start(&self, stages: usize, routes: usize) {
        *lock(&self.0) = Some(Arc::new(Recording {
            begin: Instant::now(),
            runs: Mutex::default(),
            threads: Mutex::default(),
            activations: (0..stages).map(|_| Mutex::default()).collect(),
            carried: (0..routes).map(|_| Mutex::default()).collect(),
        }));
    }

    /// The active recording, if there is one.
    pub(crate) fn current(&self) -> Option<Arc<Recording>> {
        lock(&self.0).clone()
    }

    pub(crate) fn stop(&self) -> Option<Arc<Recording>> {
        lock(&self.0).take()
    }
}

/// The data recorded so far.
pub(crate) struct Recording {
    begin: Instant,
    runs: Mutex<Vec<Run>>,
    /// The threads that have performed steps, numbered in the order of their first step.
    threads: Mutex<Vec<ThreadId>>,
    /// For each stage: the bytes that the graph of one micro-batch holds, once measured.
    activations: Vec<Mutex<Option<u64>>>,
    /// For each route: the size in bytes of the largest micro-batch value sent along it.
    carried: Vec<Mutex<u64>>,
}

impl Recording {
    /// Seconds since the trace started.
    pub(crate) fn now(&self) -> f64 {
        self.begin.elapsed().as_secs_f64()
    }

    /// The number of the calling thread, assigned at its first step.
    pub(crate) fn thread(&self) -> usize {
        let mut threads = lock(&self.threads);
        let this = std::thread::current().id();
        threads.iter().position(|&thread| thread == this).unwrap_or_else(|| {
            threads.push(this);
            threads.len() - 1
        })
    }

    /// The cell for the bytes of a stage's graph of one micro-batch: empty until measured.
    pub(crate) fn activation(&self, stage: usize) -> &Mutex<Option<u64>> {
        &self.activations[stage]
    }

    /// Notes that a value of `bytes` bytes goes through `route`.
    pub(crate) fn carries(&self, route: usize, bytes: u64) {
        let mut most = lock(&self.carried[route]);
        *most = bytes.max(*most);
    }

    /// Records a run that has succeeded.
    pub(crate) fn ran(&self, order: &Order, stages: usize, micro_batches: usize, steps: Vec<TracedStep>) {
        let action = |&position: &usize| -> Action { order.steps[position].action };
        let ranks = order.ranks.iter().map(|list| list.iter().map(action).collect()).collect();
        lock(&self.runs).push(Run { schedule: Schedule { stages, micro_batches, ranks }, steps });
    }

    /// Builds the trace of the recorded runs, with the memory sizes that were measured.
    pub(crate) fn finish(&self, routes: &[Route], parameters: &[u64]) -> Result<Trace> {
        let runs = std::mem::take(&mut *lock(&self.runs));
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
                // A split backward frees its graph as a whole.
                for_weights: activation,
                checkpoint: given.map(|(_, bytes)| bytes).sum(),
                parameters: parameters as f64,
            }
        };
        let stages: Vec<_> = parameters.iter().enumerate().map(stage).collect();
        let mut boundaries = vec![Transfer::default(); stages.len().saturating_sub(1)];
        let mut skips = Vec::new();
        for Crossing { route, from, to, is_skip } in crossings(routes) {
            let transfer = Transfer { time: 0., size: carried[route] };
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
