use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use pipe_engine::{Engine, Job, Local};
use pipe_schedule::{DeadlockError, Order, Schedule, ScheduleKind, ScheduleKindError, gpipe};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tch::{Device, Tensor};

use super::device_streams::DeviceStreams;
use super::recorder::Recorder;
use super::remote::Remote;
use super::schedule_choice::{Requirements, ScheduleChoice, custom_ranks};
use super::settings::Settings;
use crate::error::{Error, Result};
use crate::flow::PackedValue;
use crate::lock::lock;
use crate::model::devices::{Across, is_accelerator};
use crate::model::{CheapOutputs, Checkpoint, State};
use crate::stages::{Route, StageBody, crossings};
use crate::threads::IntraOpThreads;
use crate::torch::Offload;

/// A built pipeline: the stages, the routes between them, and the threads that run them. Graphs of
/// its calls keep it alive until their backward.
pub(crate) struct BuiltPipeline {
    pub(crate) stages: Vec<StageSlot>,
    pub(crate) routes: Vec<Route>,
    engine: Engine<Error>,
    pub(crate) streams: DeviceStreams,
    /// The rank (a list of actions of an executor) of each stage.
    rank_of: Vec<usize>,
    /// The connection to the other processes that run stages.
    pub(crate) remote: Option<Arc<Remote>>,
    pub(crate) checkpoint: Checkpoint,
    /// The schedule of training steps.
    pub(crate) schedule: ScheduleChoice,
    pub(crate) threads: IntraOpThreads,
    pub(crate) fuse_gradient_accumulation: bool,
    pub(crate) cheap_outputs: CheapOutputs,
    pub(crate) offload: Option<Offload>,
    pub(crate) allow_non_finite: bool,
    /// The maximum number of micro-batches.
    chunks: usize,
    pub(crate) state: State,
    pub(crate) recorder: Recorder,
    /// For each stage, the bytes that the pipeline's optimizers keep.
    optimizer_bytes: Mutex<Vec<u64>>,
    /// Whether the replicas have been found to have the same values.
    replicas_are_alike: AtomicBool,
    orders: Mutex<Option<(OrderKey, Arc<Orders>)>>,
    train_orders: Mutex<Option<(OrderKey, Arc<Order>)>>,
}

/// A stage and its device.
pub(crate) struct StageSlot {
    /// `None` after the model was taken out of the pipeline.
    pub(crate) body: Mutex<Option<StageBody>>,
    /// Whether the backward recomputes a part of it.
    recomputes: bool,
    pub(crate) device: Device,
}

impl StageSlot {
    /// Whether the backward recomputes a part of the stage.
    pub(crate) fn recomputes(&self) -> bool {
        self.recomputes
    }
}

/// The forward half and the backward half of a training step's schedule.
pub(crate) struct Orders {
    pub(crate) forward: Arc<Order>,
    pub(crate) backward: Arc<Order>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct OrderKey {
    micro_batches: usize,
    checkpointed: bool,
}

impl BuiltPipeline {
    pub(crate) fn new(
        stages: Vec<StageBody>,
        routes: Vec<Route>,
        devices: Vec<Device>,
        across: Option<&Across>,
        state: State,
        settings: Settings,
    ) -> Result<Self> {
        let Settings {
            checkpoint,
            schedule,
            ranks,
            chunks,
            intra_op_threads,
            fuse_gradient_accumulation,
            cheap_outputs,
            offload,
            allow_non_finite,
        } = settings;
        // The process and the device of each stage: each process has a `cuda:0` of its own.
        let sites: Vec<(usize, Device)> = match across {
            Some(across) => across.sites.clone(),
            None => devices.iter().map(|&device| (0, device)).collect(),
        };
        // A schedule that cannot run any mini-batch is an error now.
        let rank_of = match &schedule {
            ScheduleChoice::Published(kind) => {
                let rank_of = ranks_of(&sites, *kind, ranks)?;
                kind.schedule_on(&rank_of, chunks).map_err(not_possible)?;
                rank_of
            }
            ScheduleChoice::Custom(schedule) => {
                let skips: Vec<_> =
                    crossings(&routes).filter(|crossing| crossing.is_skip).map(|skip| (skip.from, skip.to)).collect();
                custom_ranks(schedule, &Requirements { sites: &sites, skips: &skips, ranks, chunks, checkpoint })?
            }
        };
        let model = || {
            let mut digest = DefaultHasher::new();
            let variables =
                state.list().into_iter().map(|v| (v.name, v.tensor.size(), format!("{:?}", v.tensor.kind())));
            variables.collect::<Vec<_>>().hash(&mut digest);
            across.map(|across| (&across.process_of, across.world.replica_count())).hash(&mut digest);
            format!("{routes:?} {rank_of:?} {checkpoint:?} {schedule:?} {chunks} {allow_non_finite}").hash(&mut digest);
            digest.finish()
        };
        let remote = across.map(|across| connect(across, &rank_of, &routes, model())).transpose()?;
        let first_of = |rank: usize| rank_of.iter().position(|&r| r == rank);
        let is_here = |rank: &usize| {
            first_of(*rank).is_some_and(|stage| remote.as_ref().is_none_or(|remote| !remote.is_elsewhere(stage)))
        };
        let (cpu_ranks, accelerator_ranks): (Vec<_>, Vec<_>) = (0..rank_of.iter().max().map_or(0, |last| last + 1))
            .filter(is_here)
            .partition(|&rank| first_of(rank).map(|stage| devices[stage]) == Some(Device::Cpu));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = IntraOpThreads::choose(intra_op_threads, Engine::<Error>::cpu_executors(cpu_ranks.len(), cores));
        let start = move || threads.keep();
        let engine = IntraOpThreads::spare_caller(|| Engine::new(cpu_ranks, accelerator_ranks, cores, start))?;
        let streams = DeviceStreams::new(&devices, &routes, offload.as_ref())?;
        let slots = stages.into_iter().zip(devices);
        let slots = slots.map(|(body, device)| StageSlot {
            recomputes: body.recomputes(),
            body: Mutex::new(Some(body)),
            device,
        });
        let stages: Vec<_> = slots.collect();
        Ok(Self {
            optimizer_bytes: Mutex::new(vec![0; stages.len()]),
            stages,
            routes,
            engine,
            streams,
            rank_of,
            remote,
            checkpoint,
            schedule,
            threads,
            fuse_gradient_accumulation,
            cheap_outputs,
            offload,
            allow_non_finite,
            chunks,
            state,
            recorder: Recorder::default(),
            replicas_are_alike: AtomicBool::new(false),
            orders: Mutex::default(),
            train_orders: Mutex::default(),
        })
    }

    /// Runs `job` to completion: after all work already queued on the caller's device streams, and
    /// before any queued later. `local` may perform the steps of one rank on the calling thread.
    pub(crate) fn run(&self, job: Arc<dyn Job<Error = Error>>, local: Option<Local<'_, Error>>) -> Result<()> {
        self.streams.fork()?;
        let outcome = self.engine.run_with(job, local);
        // This is also needed after a failure, because the caller frees what the stages still use.
        let joined = self.streams.join();
        outcome.and(joined.map_err(Error::from))
    }

    /// Returns for each stage the bytes that the pipeline's optimizers keep in this process now.
    pub(crate) fn optimizer_bytes(&self) -> Vec<u64> {
        lock(&self.optimizer_bytes).clone()
    }

    /// Counts `new` bytes of an optimizer's state for each stage, in place of `old` ones.
    pub(super) fn replace_optimizer_bytes(&self, old: &[u64], new: &[u64]) {
        for (bytes, (old, new)) in lock(&self.optimizer_bytes).iter_mut().zip(old.iter().zip(new)) {
            *bytes = *bytes + new - old;
        }
    }

    /// Returns the order of the steps for this number of micro-batches. It is kept between calls,
    /// because most have the same number.
    pub(crate) fn orders(&self, micro_batches: usize, checkpointed: bool) -> Result<Arc<Orders>> {
        let key = OrderKey { micro_batches, checkpointed };
        let mut kept = lock(&self.orders);
        if let Some((_, orders)) = kept.as_ref().filter(|(kept, _)| *kept == key) {
            return Ok(Arc::clone(orders));
        }
        let applies = |index| checkpointed && self.checkpoint.applies(index, micro_batches);
        let schedule = gpipe(&self.rank_of, micro_batches, applies);
        let orders =
            Arc::new(Orders { forward: self.order(&schedule.forward())?, backward: self.order(&schedule.backward())? });
        *kept = Some((key, Arc::clone(&orders)));
        Ok(orders)
    }

    /// Returns the order of a whole training step.
    pub(crate) fn train_order(&self, micro_batches: usize, checkpointed: bool) -> Result<Arc<Order>> {
        let key = OrderKey { micro_batches, checkpointed };
        let mut kept = lock(&self.train_orders);
        if let Some((_, order)) = kept.as_ref().filter(|(kept, _)| *kept == key) {
            return Ok(Arc::clone(order));
        }
        let applies = |index| checkpointed && self.checkpoint.applies(index, micro_batches);
        let schedule = match &self.schedule {
            ScheduleChoice::Published(kind) => {
                kind.schedule_within(&self.rank_of, micro_batches, self.chunks).map_err(not_possible)?
            }
            ScheduleChoice::Custom(schedule) => {
                schedule.with_first(micro_batches).without_recompute(|index| !applies(index))
            }
        };
        let order = self.order(&schedule.with_recompute(|_, index| applies(index)))?;
        *kept = Some((key, Arc::clone(&order)));
        Ok(order)
    }

    fn order(&self, schedule: &Schedule) -> Result<Arc<Order>> {
        let mut order = schedule.order().map_err(deadlock)?;
        if let Some(remote) = &self.remote {
            remote.complete(&mut order, &self.routes);
        }
        Ok(Arc::new(order))
    }

    /// Ends a call together with the other processes: returns what all of them have told, or one
    /// error for all.
    pub(crate) fn close<T>(&self, number: Option<u64>, told: Result<T>) -> Result<Vec<T>>
    where
        T: Serialize + DeserializeOwned,
    {
        match number.zip(self.remote.as_ref()) {
            Some((number, remote)) => remote.close(number, told),
            None => told.map(|told| vec![told]),
        }
    }

    /// Gathers numbers of parameters, each from the process that has it, or one error for all.
    pub(crate) fn gather(
        &self,
        what: &str,
        own: Result<BTreeMap<String, f64>, &Error>,
    ) -> Result<BTreeMap<String, f64>> {
        let Some(remote) = &self.remote else { return Ok(own.unwrap_or_default()) };
        let all = remote.agree(what, own.as_ref().map_err(|error| *error))?;
        Ok(all.into_iter().flatten().collect())
    }

    /// Agrees with the other processes on the outcome of something that all have done, `what` in
    /// words: returns those of all, or one error for all.
    pub(crate) fn agree<T: Serialize + DeserializeOwned>(&self, what: &str, own: Result<T>) -> Result<Vec<T>> {
        match &self.remote {
            Some(remote) => remote.agree(what, own.as_ref()),
            None => own.map(|own| vec![own]),
        }
    }

    /// The same for a value that is needed here too.
    pub(crate) fn agree_on<T: Serialize + DeserializeOwned>(
        &self,
        what: &str,
        own: Result<T, &Error>,
    ) -> Result<Vec<T>> {
        match &self.remote {
            Some(remote) => remote.agree(what, own.as_ref().map_err(|error| *error)),
            None => Ok(own.into_iter().collect()),
        }
    }

    /// Brings the tensors of all stages, with their names, to the first process.
    pub(crate) fn collect(
        &self,
        what: &str,
        own: Result<Vec<(usize, String, Tensor)>>,
    ) -> Result<Vec<(usize, String, Tensor)>> {
        match &self.remote {
            Some(remote) => remote.collect(what, own),
            None => own,
        }
    }

    /// Ends the use of the pipeline over several processes after an error that only this one has:
    /// the others have gone on.
    pub(crate) fn parted(&self, error: Error) -> Error {
        match &self.remote {
            Some(remote) => remote.lost(error),
            None => error,
        }
    }

    /// Whether other processes run the same stages on other rows.
    pub(crate) fn has_replicas(&self) -> bool {
        self.remote.as_ref().is_some_and(|remote| remote.has_replicas())
    }

    /// Checks once that all replicas have the same values of their variables.
    pub(crate) fn check_replicas(&self) -> Result<()> {
        let Some(remote) = self.remote.as_ref().filter(|remote| remote.has_replicas()) else { return Ok(()) };
        if self.replicas_are_alike.load(Ordering::Relaxed) {
            return Ok(());
        }
        let own = self.state.list().into_iter().filter(|variable| self.is_here(variable.stage));
        remote.check_values(Ok(own.collect()))?;
        self.replicas_are_alike.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Whether this process writes the files of all.
    pub(crate) fn writes_files(&self) -> bool {
        self.remote.as_ref().is_none_or(|remote| remote.process() == 0)
    }

    /// What to say beside a file that this process cannot read, and another one may have.
    pub(crate) fn reads_the_same_files(&self) -> String {
        self.remote.as_ref().map_or_else(String::new, |remote| remote.world().reads_the_same_files())
    }

    /// Checks that the outputs can go to the other processes, if there are any. It is asked before
    /// the call ends, so that all of them hear of it.
    pub(crate) fn can_share(&self, outputs: &[PackedValue]) -> Result<()> {
        if self.remote.is_some() { Remote::can_share(outputs) } else { Ok(()) }
    }

    /// Gives the outputs of the last stage to all processes.
    pub(crate) fn share_outputs(
        &self,
        number: Option<u64>,
        micro_batches: usize,
        outputs: Vec<PackedValue>,
    ) -> Result<Vec<PackedValue>> {
        let Some((number, remote)) = number.zip(self.remote.as_ref()) else { return Ok(outputs) };
        remote.share_outputs(number, self.stages.len() - 1, micro_batches, outputs)
    }

    /// Whether this process runs the stage.
    pub(crate) fn is_here(&self, stage: usize) -> bool {
        self.remote.as_ref().is_none_or(|remote| !remote.is_elsewhere(stage))
    }

    /// Whether this process runs the first stage, and gets the inputs.
    pub(crate) fn has_first(&self) -> bool {
        self.is_here(0)
    }

    /// Whether this process runs the last stage, and gets the targets.
    pub(crate) fn has_last(&self) -> bool {
        self.is_here(self.stages.len() - 1)
    }

    /// Returns the rank of each stage.
    pub(crate) fn rank_of(&self) -> &[usize] {
        &self.rank_of
    }

    /// Returns the rank that runs the last stage.
    pub(crate) fn last_rank(&self) -> usize {
        self.rank_of[self.rank_of.len() - 1]
    }

    /// The port through which the caller's input arrives, and the port through which the output
    /// leaves.
    pub(crate) fn ends(&self) -> (usize, usize) {
        let end = |is: fn(&Route) -> bool| self.routes.iter().position(is).expect("generated code declares both ends");
        (end(|route| route.from.is_none()), end(|route| route.to.is_none()))
    }
}

fn not_possible(error: ScheduleKindError) -> Error {
    Error::Setting(error.to_string())
}

fn deadlock(error: DeadlockError) -> Error {
    Error::Setting(error.to_string())
}

/// Connects the processes. The stages of a rank must be in one of them.
fn connect(across: &Across, rank_of: &[usize], routes: &[Route], model: u64) -> Result<Arc<Remote>> {
    let process_of = &across.process_of;
    for (stage, &rank) in rank_of.iter().enumerate() {
        let first = rank_of.iter().position(|&r| r == rank).unwrap_or(stage);
        if process_of[first] != process_of[stage] {
            return Err(Error::Setting(format!(
                "the schedule runs stages {first} and {stage} on one rank, but they are in processes {} and {}: give the schedule to \
                 `Devices::for_schedule`, or annotate one process for both",
                process_of[first], process_of[stage]
            )));
        }
    }
    for crossing in crossings(routes) {
        let (from, to) = (crossing.from, crossing.to);
        if let Some(type_name) = routes[crossing.route].local.filter(|_| process_of[from] != process_of[to]) {
            return Err(Error::Setting(format!(
                "stage {from} sends a value of type `{type_name}` to stage {to}, which cannot go to another process: tensors, numbers and strings \
                 can. Put both stages into one process, or send what the value is made of"
            )));
        }
    }
    // A process that is alone in its replica has all stages, whatever is annotated.
    let devices = across.sites.iter().map(|(_, device)| *device);
    let sites: Vec<_> = process_of.iter().copied().zip(devices).collect();
    Remote::new(&across.world, &sites, routes, model)
}

/// Places each stage on a rank.
fn ranks_of(sites: &[(usize, Device)], kind: ScheduleKind, wish: Option<usize>) -> Result<Vec<usize>> {
    let accelerators: Vec<_> =
        sites.iter().map(|site| Some(site).filter(|(_, device)| is_accelerator(device))).collect();
    kind.place(&accelerators, wish).map_err(|error| Error::Setting(error.to_string()))
}
