use std::sync::{Arc, Mutex};

use pipe_schedule::{Illegal, Method, Order, Stuck, gpipe};
use tch::{Device, Tensor};

use crate::call::lock;
use crate::checkpoint::Checkpoint;
use crate::engine::{Engine, Job, Local};
use crate::graph::{Route, Stage};
use crate::streams::Streams;
use crate::threads::IntraOpThreads;
use crate::{Error, Result};

/// A built pipeline: the stages, what lies between them, and the threads that run them. Outlives its handle as long as graphs
/// of its calls wait for their backward.
pub(crate) struct Network {
    pub(crate) stages: Vec<StageSlot>,
    pub(crate) routes: Vec<Route>,
    engine: Engine,
    pub(crate) streams: Streams,
    /// Which rank (executor's op list) runs each stage.
    rank_of: Vec<usize>,
    pub(crate) checkpoint: Checkpoint,
    /// The order of training steps.
    pub(crate) method: Method,
    pub(crate) threads: IntraOpThreads,
    orders: Mutex<Option<(OrderKey, Arc<Orders>)>>,
    train_orders: Mutex<Option<(OrderKey, Arc<Order>)>>,
}

/// What is chosen when a pipeline is built.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) checkpoint: Checkpoint,
    pub(crate) method: Method,
    pub(crate) ranks: Option<usize>,
    pub(crate) chunks: usize,
    pub(crate) intra_op_threads: Option<usize>,
}

/// One stage on its device.
pub(crate) struct StageSlot {
    /// Empty once the model was taken out of the pipeline.
    pub(crate) body: Mutex<Option<Box<dyn Stage>>>,
    pub(crate) device: Device,
    /// Variables of its layers that are not trained: running statistics and other state.
    pub(crate) buffers: Mutex<Vec<Tensor>>,
}

/// The two halves of a training step's schedule.
pub(crate) struct Orders {
    pub(crate) forward: Arc<Order>,
    pub(crate) backward: Arc<Order>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct OrderKey {
    micro_batches: usize,
    checkpointed: bool,
}

impl Network {
    pub(crate) fn new(
        stages: Vec<Box<dyn Stage>>,
        routes: Vec<Route>,
        devices: Vec<Device>,
        buffers: Vec<Vec<Tensor>>,
        settings: Settings,
    ) -> Result<Self> {
        let Settings { checkpoint, method, ranks, chunks, intra_op_threads } = settings;
        let rank_of = ranks_of(&devices, method, ranks)?;
        // What no mini-batch could be run with is an error now.
        method.schedule_on(&rank_of, chunks).map_err(illegal)?;
        let rank_device = |rank: usize| rank_of.iter().position(|&r| r == rank).map(|stage| devices[stage]);
        let (cpu_ranks, accelerator_ranks): (Vec<_>, Vec<_>) = (0..rank_of.iter().max().map_or(0, |last| last + 1))
            .partition(|&rank| rank_device(rank) == Some(Device::Cpu));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = IntraOpThreads::choose(intra_op_threads, Engine::cpu_executors(cpu_ranks.len(), cores));
        let start = move || threads.keep();
        let engine = IntraOpThreads::spare_caller(|| Engine::new(cpu_ranks, accelerator_ranks, cores, start))?;
        let streams = Streams::new(&devices, &routes)?;
        let slots = stages.into_iter().zip(devices).zip(buffers).map(|((body, device), buffers)| StageSlot {
            body: Mutex::new(Some(body)),
            device,
            buffers: Mutex::new(buffers),
        });
        Ok(Self {
            stages: slots.collect(),
            routes,
            engine,
            streams,
            rank_of,
            checkpoint,
            method,
            threads,
            orders: Mutex::default(),
            train_orders: Mutex::default(),
        })
    }

    /// Runs a job to its end, between what the caller's streams have been given before and what they will be given later.
    pub(crate) fn run(&self, job: Arc<dyn Job>) -> Result<()> {
        self.in_order(|engine| engine.run(job))
    }

    /// As [`run`](Self::run); the steps of one rank are performed by `local` on the calling thread.
    pub(crate) fn run_with(&self, job: Arc<dyn Job>, local: Option<Local<'_>>) -> Result<()> {
        self.in_order(|engine| engine.run_with(job, local))
    }

    fn in_order(&self, run: impl FnOnce(&Engine) -> Result<()>) -> Result<()> {
        self.streams.fork()?;
        let outcome = run(&self.engine);
        // Also after a failure: the caller frees what the stages still use.
        let joined = self.streams.join();
        outcome.and(joined.map_err(Error::from))
    }

    /// The order of the steps for so many micro-batches. Kept from call to call: most have the same number.
    pub(crate) fn orders(&self, micro_batches: usize, checkpointed: bool) -> Result<Arc<Orders>> {
        let key = OrderKey { micro_batches, checkpointed };
        let mut kept = lock(&self.orders);
        if let Some((_, orders)) = kept.as_ref().filter(|(kept, _)| *kept == key) {
            return Ok(Arc::clone(orders));
        }
        let applies = |index| checkpointed && self.checkpoint.applies(index, micro_batches);
        let schedule = gpipe(&self.rank_of, micro_batches, applies);
        let orders = Arc::new(Orders {
            forward: Arc::new(schedule.forward().order().map_err(stuck)?),
            backward: Arc::new(schedule.backward().order().map_err(stuck)?),
        });
        *kept = Some((key, Arc::clone(&orders)));
        Ok(orders)
    }

    /// The order of a whole training step.
    pub(crate) fn train_order(&self, micro_batches: usize, checkpointed: bool) -> Result<Arc<Order>> {
        let key = OrderKey { micro_batches, checkpointed };
        let mut kept = lock(&self.train_orders);
        if let Some((_, order)) = kept.as_ref().filter(|(kept, _)| *kept == key) {
            return Ok(Arc::clone(order));
        }
        let applies = |index| checkpointed && self.checkpoint.applies(index, micro_batches);
        let schedule = self.method.schedule_on(&self.rank_of, micro_batches).map_err(illegal)?;
        let order = Arc::new(schedule.with_recompute(|_, index| applies(index)).order().map_err(stuck)?);
        *kept = Some((key, Arc::clone(&order)));
        Ok(order)
    }

    /// The rank that runs the last stage.
    pub(crate) fn last_rank(&self) -> usize {
        self.rank_of[self.rank_of.len() - 1]
    }

    /// The port through which the caller's input comes, and the one through which the output leaves.
    pub(crate) fn ends(&self) -> (usize, usize) {
        let end = |is: fn(&Route) -> bool| self.routes.iter().position(is).expect("generated code declares both ends");
        (end(|route| route.from.is_none()), end(|route| route.to.is_none()))
    }
}

fn illegal(error: Illegal) -> Error {
    Error::Setting(error.to_string())
}

fn stuck(error: Stuck) -> Error {
    Error::Setting(error.to_string())
}

/// The rank of each stage. On accelerators, a rank is a device, whichever stages it has. On the CPU, where any executor can run any stage, stages are placed on ranks
/// as the schedule wants them.
fn ranks_of(devices: &[Device], method: Method, wish: Option<usize>) -> Result<Vec<usize>> {
    let stages = devices.len();
    if devices.iter().any(|&device| device != Device::Cpu) {
        return match wish {
            None => Ok(device_ranks(devices)),
            Some(_) => {
                Err(Error::Setting("the number of ranks can only be chosen where all stages are on the CPU".into()))
            }
        };
    }
    let per_rank = match method {
        Method::GPipe | Method::ZbH1 => 1,
        _ => method.stages_per_rank().unwrap_or(2),
    };
    let ranks = wish.unwrap_or(stages / per_rank);
    if ranks == 0 || !stages.is_multiple_of(ranks) || (wish.is_none() && ranks * per_rank != stages) {
        return Err(Error::Setting(format!(
            "`{method}` needs the same number of stages on each rank, but the model has {stages} stages for {} {}: change the number of stages or of ranks",
            wish.map_or(per_rank, |ranks| ranks),
            if wish.is_some() { "ranks" } else { "per rank" },
        )));
    }
    Ok((0..stages).map(|stage| method.rank_of(stage, ranks, stages / ranks)).collect())
}

/// Each CPU stage has a rank of its own; an accelerator has one for all of its stages.
fn device_ranks(devices: &[Device]) -> Vec<usize> {
    let mut ranks: Vec<Device> = Vec::new();
    let rank_of = |&device: &Device| {
        let known = if device == Device::Cpu { None } else { ranks.iter().position(|&rank| rank == device) };
        known.unwrap_or_else(|| {
            ranks.push(device);
            ranks.len() - 1
        })
    };
    devices.iter().map(rank_of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_of_one_accelerator_share_an_op_list_and_cpu_stages_do_not() {
        let devices = [Device::Cuda(0), Device::Cpu, Device::Cuda(1), Device::Cpu, Device::Cuda(0)];
        assert_eq!(device_ranks(&devices), [0, 1, 2, 3, 0]);
        assert_eq!(ranks_of(&devices, Method::OneFOneB, None).unwrap(), [0, 1, 2, 3, 0]);
    }

    #[test]
    fn cpu_stages_go_where_the_schedule_wants_them() {
        let ranks = |stages, method, wish| ranks_of(&vec![Device::Cpu; stages], method, wish);
        assert_eq!(ranks(4, Method::OneFOneB, None).unwrap(), [0, 1, 2, 3]);
        assert_eq!(ranks(4, Method::Zbv, None).unwrap(), [0, 1, 1, 0]);
        assert_eq!(ranks(4, Method::Interleaved, None).unwrap(), [0, 1, 0, 1]);
        assert_eq!(ranks(6, Method::Interleaved, Some(2)).unwrap(), [0, 1, 0, 1, 0, 1]);
        let error = ranks(3, Method::Zbv, None).unwrap_err().to_string();
        assert!(error.contains("the model has 3 stages for 2 per rank"), "{error}");
        let error = ranks(5, Method::Interleaved, Some(2)).unwrap_err().to_string();
        assert!(error.contains("the model has 5 stages for 2 ranks"), "{error}");
    }
}
