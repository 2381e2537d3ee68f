//! The part of a pipeline that runs in other processes: what is sent to them and arrives from them,
//! and the agreements with which a call begins and ends.

mod agreement;
mod carrier;
mod channel;
mod edges;
mod framing;
#[cfg(fuzzing)]
mod fuzzing;
mod remote_call;
mod replicas;
mod traces;
mod wire;

pub(crate) use agreement::{Opened, Opening};
#[cfg(fuzzing)]
pub(crate) use fuzzing::message;
pub(crate) use remote_call::{Arrival, RemoteCall};
pub(crate) use replicas::Operation;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use pipe_schedule::{ActionKind, Order};
use tch::Device;

use crate::error::{Error, Result};
use crate::lock::lock;
use crate::stages::{Route, crossings};
use crate::world::World;
use channel::Channel;
use edges::{Edges, Ends, Site};
use wire::Message;

/// A pipeline's connection to the other processes that run stages of it.
pub(crate) struct Remote {
    world: World,
    /// The process of each stage, in this replica.
    process_of: Vec<usize>,
    /// The process and the device of each stage, in this replica.
    sites: Vec<Site>,
    channel: Mutex<Channel>,
    /// The number of the pipeline, in the order in which they were built.
    number: u16,
    /// The number of agreements so far, the same on all processes.
    calls: AtomicU64,
    /// The first step of the present call that has failed here.
    failed: AtomicUsize,
    /// The number of the last call of which a failure elsewhere was heard, plus 1.
    heard: AtomicU64,
    /// A digest of the model, its partitioning and its settings.
    model: u64,
    /// Why the pipeline can no longer be used: the connection was lost.
    broken: Mutex<Option<String>>,
}

impl Remote {
    /// All processes build the same pipelines, in the same order.
    /// `sites` has the process and the device of each stage.
    pub(crate) fn new(world: &World, sites: &[(usize, Device)], routes: &[Route], model: u64) -> Result<Arc<Self>> {
        let first = world.replica() * world.per_replica();
        let sites: Vec<Site> = sites.iter().map(|&(position, device)| (first + position, device)).collect();
        let process_of = sites.iter().map(|(process, _)| *process).collect();
        let edges = Edges::connect(world, &ends(world, &sites, routes))?;
        let number = world.tag()?;
        let channel = Mutex::new(Channel::new(world, number, edges)?);
        Ok(Arc::new(Self {
            world: world.clone(),
            process_of,
            sites,
            channel,
            number,
            calls: AtomicU64::new(0),
            failed: AtomicUsize::new(usize::MAX),
            heard: AtomicU64::new(0),
            model,
            broken: Mutex::default(),
        }))
    }

    /// The processes.
    pub(crate) fn world(&self) -> &World {
        &self.world
    }

    /// The number of this process.
    pub(crate) fn process(&self) -> usize {
        self.world.process()
    }

    /// Whether other processes run the same stages on other rows.
    pub(crate) fn has_replicas(&self) -> bool {
        self.world.replica_count() > 1
    }

    pub(crate) fn process_of(&self, stage: usize) -> usize {
        self.process_of[stage]
    }

    /// The connection from the accelerator of one stage to that of another, and its device here, if
    /// there is one.
    pub(crate) fn edge(&self, from: usize, to: usize) -> Option<(usize, Device)> {
        self.edge_between(self.sites[from], self.sites[to])
    }

    fn edge_between(&self, from: Site, to: Site) -> Option<(usize, Device)> {
        lock(&self.channel).edge(Ends { from, to })
    }

    /// Whether another process runs the stage.
    pub(crate) fn is_elsewhere(&self, stage: usize) -> bool {
        self.process_of[stage] != self.process()
    }

    /// Completes the order of a call. In one process, a skip is there before what the stage in
    /// between sends. Between processes it may come later, so its receiver waits for it.
    pub(crate) fn complete(&self, order: &mut Order, routes: &[Route]) {
        let position = |kinds: &[ActionKind], stage: usize, micro_batch: usize| {
            let is = |kind: ActionKind| kinds.contains(&kind);
            let sends = |step: &pipe_schedule::Step| {
                is(step.action.kind) && (step.action.stage, step.action.micro_batch) == (stage, micro_batch)
            };
            order.steps.iter().position(sends)
        };
        let mut waits = Vec::new();
        for (number, step) in order.steps.iter().enumerate() {
            let (stage, micro_batch) = (step.action.stage, step.action.micro_batch);
            for route in crossings(routes) {
                let found = match step.action.kind {
                    ActionKind::Forward if route.to == stage => {
                        position(&[ActionKind::Forward], route.from, micro_batch)
                    }
                    ActionKind::Backward | ActionKind::BackwardInput if route.from == stage => {
                        position(&[ActionKind::Backward, ActionKind::BackwardInput], route.to, micro_batch)
                    }
                    _ => None,
                };
                waits.extend(found.map(|found| (number, found)));
            }
        }
        for (number, needed) in waits {
            let is_elsewhere = self.is_elsewhere(order.steps[needed].action.stage);
            let after = &mut order.steps[number].after;
            if is_elsewhere && !after.contains(&needed) {
                after.push(needed);
            }
        }
    }

    /// Tells all other processes that a step of the call has failed here.
    pub(crate) fn has_failed(&self, call: u64, step: usize) {
        if self.failed.fetch_min(step, Ordering::Relaxed) > step {
            self.tell_all(call, |_| Message::Failed { step });
        }
    }

    /// Ends the use of the pipeline: the processes no longer agree on where they are. All others
    /// hear of it too.
    pub(crate) fn lost(&self, error: Error) -> Error {
        self.world.give_up(&error);
        lock(&self.broken).get_or_insert_with(|| error.to_string());
        error
    }

    fn check(&self) -> Result<()> {
        match &*lock(&self.broken) {
            None => Ok(()),
            Some(error) => {
                Err(Error::Connection(format!("an earlier call lost the connection to another process: {error}")))
            }
        }
    }
}

/// The ends of all connections between accelerators of different processes that tensors take, in
/// all replicas: along the routes, there and back, and between the replicas of a stage. The list is
/// the same on all processes.
fn ends(world: &World, sites: &[Site], routes: &[Route]) -> Vec<Ends> {
    let in_replica = |replica: usize, stage: usize| {
        let (process, device) = sites[stage];
        (replica * world.per_replica() + process % world.per_replica(), device)
    };
    let along = |replica: usize| {
        crossings(routes).map(move |crossing| [in_replica(replica, crossing.from), in_replica(replica, crossing.to)])
    };
    let replicas = 0..world.replica_count();
    let beside = (0..sites.len()).flat_map(|stage| {
        let pairs = replicas.clone().flat_map(|one| (0..one).map(move |other| (one, other)));
        pairs.map(move |(one, other)| [in_replica(one, stage), in_replica(other, stage)])
    });
    let mut ends: Vec<Ends> = Vec::new();
    for [one, other] in replicas.clone().flat_map(along).chain(beside) {
        let is_accelerator = |site: Site| matches!(site.1, Device::Cuda(_));
        if one.0 == other.0 || !is_accelerator(one) || !is_accelerator(other) {
            continue;
        }
        for ends_of in [Ends { from: one, to: other }, Ends { from: other, to: one }] {
            if !ends.contains(&ends_of) {
                ends.push(ends_of);
            }
        }
    }
    ends
}
