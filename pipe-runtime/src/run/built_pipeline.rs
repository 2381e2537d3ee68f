use std::sync::{Arc, Mutex};

use pipe_engine::{Engine, Job, Local};
use pipe_schedule::{DeadlockError, Order, ScheduleKind, ScheduleKindError, gpipe};
use tch::Device;

use super::device_streams::DeviceStreams;
use super::recorder::Recorder;
use super::schedule_choice::{Requirements, ScheduleChoice, custom_ranks};
use super::settings::Settings;
use crate::error::{Error, Result};
use crate::lock::lock;
use crate::model::{Checkpoint, State};
use crate::stages::{Route, Stage, crossings};
use crate::threads::IntraOpThreads;

/// A built pipeline: the stages, the routes between them, and the threads that run them. Graphs of
/// its calls keep it alive until their backward.
pub(crate) struct BuiltPipeline {
    pub(crate) stages: Vec<StageSlot>,
    pub(crate) routes: Vec<Route>,
    engine: Engine<Error>,
    pub(crate) streams: DeviceStreams,
    /// The rank (a list of actions of an executor) of each stage.
    rank_of: Vec<usize>,
    pub(crate) checkpoint: Checkpoint,
    /// The schedule of training steps.
    pub(crate) schedule: ScheduleChoice,
    pub(crate) threads: IntraOpThreads,
    pub(crate) fuse_gradient_accumulation: bool,
    pub(crate) allow_non_finite: bool,
    /// The maximum number of micro-batches.
    chunks: usize,
    pub(crate) state: State,
    pub(crate) recorder: Recorder,
    orders: Mutex<Option<(OrderKey, Arc<Orders>)>>,
    train_orders: Mutex<Option<(OrderKey, Arc<Order>)>>,
}

/// A stage and its device.
pub(crate) struct StageSlot {
    /// `None` after the model was taken out of the pipeline.
    pub(crate) body: Mutex<Option<Box<dyn Stage>>>,
    pub(crate) device: Device,
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
        stages: Vec<Box<dyn Stage>>,
        routes: Vec<Route>,
        devices: Vec<Device>,
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
            allow_non_finite,
        } = settings;
        // A schedule that cannot run any mini-batch is an error now.
        let rank_of = match &schedule {
            ScheduleChoice::Published(kind) => {
                let rank_of = ranks_of(&devices, *kind, ranks)?;
                kind.schedule_on(&rank_of, chunks).map_err(not_possible)?;
                rank_of
            }
            ScheduleChoice::Custom(schedule) => {
                let skips: Vec<_> =
                    crossings(&routes).filter(|crossing| crossing.is_skip).map(|skip| (skip.from, skip.to)).collect();
                custom_ranks(schedule, &Requirements { devices: &devices, skips: &skips, ranks, chunks, checkpoint })?
            }
        };
        let rank_device = |rank: usize| rank_of.iter().position(|&r| r == rank).map(|stage| devices[stage]);
        let (cpu_ranks, accelerator_ranks): (Vec<_>, Vec<_>) = (0..rank_of.iter().max().map_or(0, |last| last + 1))
            .partition(|&rank| rank_device(rank) == Some(Device::Cpu));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = IntraOpThreads::choose(intra_op_threads, Engine::<Error>::cpu_executors(cpu_ranks.len(), cores));
        let start = move || threads.keep();
        let engine = IntraOpThreads::spare_caller(|| Engine::new(cpu_ranks, accelerator_ranks, cores, start))?;
        let streams = DeviceStreams::new(&devices, &routes)?;
        let slots = stages.into_iter().zip(devices);
        let slots = slots.map(|(body, device)| StageSlot { body: Mutex::new(Some(body)), device });
        Ok(Self {
            stages: slots.collect(),
            routes,
            engine,
            streams,
            rank_of,
            checkpoint,
            schedule,
            threads,
            fuse_gradient_accumulation,
            allow_non_finite,
            chunks,
            state,
            recorder: Recorder::default(),
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
        let orders = Arc::new(Orders {
            forward: Arc::new(schedule.forward().order().map_err(deadlock)?),
            backward: Arc::new(schedule.backward().order().map_err(deadlock)?),
        });
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
        let order = Arc::new(schedule.with_recompute(|_, index| applies(index)).order().map_err(deadlock)?);
        *kept = Some((key, Arc::clone(&order)));
        Ok(order)
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

/// Places each stage on a rank.
fn ranks_of(devices: &[Device], kind: ScheduleKind, wish: Option<usize>) -> Result<Vec<usize>> {
    let accelerators: Vec<_> = devices.iter().map(|&device| (device != Device::Cpu).then_some(device)).collect();
    kind.place(&accelerators, wish).map_err(|error| Error::Setting(error.to_string()))
}
