use std::sync::{Arc, Mutex};

use pipe_schedule::{Order, gpipe};
use tch::{Device, Tensor};

use crate::call::lock;
use crate::checkpoint::Checkpoint;
use crate::engine::Engine;
use crate::graph::{Route, Stage};
use crate::threads::IntraOpThreads;
use crate::{Error, Result};

/// A built pipeline: the stages, what lies between them, and the threads that run them. Outlives its handle as long as graphs
/// of its calls wait for their backward.
pub(crate) struct Network {
    pub(crate) stages: Vec<StageSlot>,
    pub(crate) routes: Vec<Route>,
    pub(crate) engine: Engine,
    /// Which rank (executor's op list) runs each stage.
    rank_of: Vec<usize>,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) threads: IntraOpThreads,
    orders: Mutex<Option<(OrderKey, Arc<Orders>)>>,
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
    pub(crate) forward: Order,
    pub(crate) backward: Order,
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
        checkpoint: Checkpoint,
        intra_op_threads: Option<usize>,
    ) -> Result<Self> {
        let rank_of = ranks(&devices);
        let rank_device = |rank: usize| rank_of.iter().position(|&r| r == rank).map(|stage| devices[stage]);
        let (cpu_ranks, accelerator_ranks): (Vec<_>, Vec<_>) = (0..rank_of.iter().max().map_or(0, |last| last + 1))
            .partition(|&rank| rank_device(rank) == Some(Device::Cpu));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = IntraOpThreads::choose(intra_op_threads, Engine::cpu_executors(cpu_ranks.len(), cores));
        let start = move || threads.keep();
        let engine = IntraOpThreads::spare_caller(|| Engine::new(cpu_ranks, accelerator_ranks, cores, start))?;
        let slots = stages.into_iter().zip(devices).zip(buffers).map(|((body, device), buffers)| StageSlot {
            body: Mutex::new(Some(body)),
            device,
            buffers: Mutex::new(buffers),
        });
        Ok(Self { stages: slots.collect(), routes, engine, rank_of, checkpoint, threads, orders: Mutex::default() })
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
        let stuck = |error: pipe_schedule::Stuck| Error::Setting(error.to_string());
        let orders = Arc::new(Orders {
            forward: schedule.forward().order().map_err(stuck)?,
            backward: schedule.backward().order().map_err(stuck)?,
        });
        *kept = Some((key, Arc::clone(&orders)));
        Ok(orders)
    }

    /// The port through which the caller's input comes, and the one through which the output leaves.
    pub(crate) fn ends(&self) -> (usize, usize) {
        let end = |is: fn(&Route) -> bool| self.routes.iter().position(is).expect("generated code declares both ends");
        (end(|route| route.from.is_none()), end(|route| route.to.is_none()))
    }
}

/// Each CPU stage has an op list of its own; an accelerator has one for all of its stages.
fn ranks(devices: &[Device]) -> Vec<usize> {
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
        assert_eq!(ranks(&devices), [0, 1, 2, 3, 0]);
    }
}
