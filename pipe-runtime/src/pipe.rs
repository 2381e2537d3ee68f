use std::ops::Deref;
use std::sync::Arc;

use pipe_schedule::Method;
use tch::nn::VarStore;
use tch::{Device, Tensor};

use crate::call::{Call, attach_node, lock};
use crate::flow::{Flow, IntoFlow, MiniBatch, Packer, Parcel, Unpacker, scatter};
use crate::graph::{Graph, Layers};
use crate::model::Pipeline;
use crate::network::{Network, Settings};
use crate::scheduling::{IntoScheduling, Scheduling};
use crate::torch::grad_enabled;
use crate::{Checkpoint, Devices, Error, Plan, Result, Vars};

/// Settings of a pipeline that is about to be built; those left out are the annotated ones.
#[derive(Debug)]
pub struct PipeBuilder<'v, M> {
    model: M,
    vars: &'v Vars,
    chunks: Option<usize>,
    checkpoint: Option<Checkpoint>,
    schedule: Option<Scheduling>,
    ranks: Option<usize>,
    intra_op_threads: Option<usize>,
}

impl<'v, M: Pipeline> PipeBuilder<'v, M> {
    #[doc(hidden)]
    pub fn new(model: M, vars: &'v Vars) -> Self {
        Self { model, vars, chunks: None, checkpoint: None, schedule: None, ranks: None, intra_op_threads: None }
    }

    /// Into how many micro-batches a mini-batch is split, at most; `None` for the annotated number, or 1 if none is.
    pub fn chunks(mut self, chunks: impl Into<Option<usize>>) -> Self {
        self.chunks = chunks.into();
        self
    }

    /// Which micro-batches are checkpointed; `None` for the annotated mode, or all but the last if none is.
    pub fn checkpoint(mut self, checkpoint: impl Into<Option<Checkpoint>>) -> Self {
        self.checkpoint = checkpoint.into();
        self
    }

    /// The order in which [`Pipe::train_step`] works: a [`Method`], or a [`Schedule`](pipe_schedule::Schedule) of one's own; `None` for the annotated one, or GPipe's if
    /// none is. [`Pipe::forward`] and `backward()` always go in GPipe's order.
    ///
    /// A schedule of one's own is for exactly its number of micro-batches, which [`chunks`](Self::chunks) then is if it is not set. It may place the stages on ranks
    /// as it likes, as far as devices let it. What recomputations it leaves out are put right before their backwards.
    pub fn schedule(mut self, schedule: impl IntoScheduling) -> Self {
        self.schedule = schedule.into_scheduling();
        self
    }

    /// Over how many ranks a schedule with several stages per rank loops, where all stages are on the CPU; by default, each rank has two (or as many as the schedule wants).
    /// On accelerators, a rank is a device.
    pub fn ranks(mut self, ranks: usize) -> Self {
        self.ranks = Some(ranks);
        self
    }

    /// How many threads libtorch uses inside one operator of a stage. An equal share of the caller's ([`tch::get_num_threads`]) if not set.
    pub fn intra_op_threads(mut self, threads: usize) -> Self {
        self.intra_op_threads = Some(threads);
        self
    }

    /// Takes the model apart into stages and starts the threads that run them.
    ///
    /// # Errors
    ///
    /// If a setting is out of range, the schedule is not valid or does not fit the model, repeated layers do not fit their devices, or a thread cannot be started.
    pub fn build(self) -> Result<Pipe<M>> {
        let annotated = M::DEFAULTS.schedule.unwrap_or(Method::GPipe);
        let scheduling = self.schedule.unwrap_or(Scheduling::Method(annotated));
        let own_chunks = match &scheduling {
            Scheduling::Method(_) => None,
            Scheduling::Own(schedule) => Some(schedule.micro_batches.max(1)),
        };
        let chunks = self.chunks.or(own_chunks).or(M::DEFAULTS.chunks).unwrap_or(1);
        if chunks == 0 {
            return Err(Error::Setting("number of chunks must be positive integer".into()));
        }
        check_threads(self.intra_op_threads)?;
        self.vars.check_devices()?;
        let parameter_bytes = self.vars.training_bytes();
        let mut graph = Graph::default();
        let plain = self.model.disassemble(&mut graph)?;
        let (stages, routes) = graph.finish();
        let network = Network::new(
            stages,
            routes,
            self.vars.devices(),
            self.vars.buffers(),
            Settings {
                checkpoint: self.checkpoint.or(M::DEFAULTS.checkpoint).unwrap_or_default(),
                scheduling,
                ranks: self.ranks,
                chunks,
                intra_op_threads: self.intra_op_threads,
            },
        )?;
        let mut variables = VarStore::new(self.vars.all().device());
        variables.variables_ = self.vars.all().variables_.clone();
        Ok(Pipe { network: Arc::new(network), plain, variables, parameter_bytes, chunks, training: true })
    }
}

/// A model that runs as a pipeline.
///
/// It starts in training mode. The fields marked `#[not_a_layer]` are readable through it.
pub struct Pipe<M: Pipeline> {
    network: Arc<Network>,
    plain: M::Plain,
    /// The model's variables, over all devices.
    variables: VarStore,
    /// By stage, what [`Vars::training_bytes`] says.
    pub(crate) parameter_bytes: Vec<u64>,
    chunks: usize,
    training: bool,
}

impl<M: Pipeline> Pipe<M> {
    /// What runs where.
    pub const PLAN: Plan = M::PLAN;

    /// Runs a mini-batch through the stages, micro-batch by micro-batch, and gives the joined output.
    ///
    /// It is transparent: the output carries autograd as the plain model's would, and `backward()` on anything made from
    /// it runs the pipelined backward. Where no gradient can be asked for (under [`tch::no_grad`], or with nothing that requires one), nothing is
    /// kept.
    ///
    /// # Errors
    ///
    /// If the inputs cannot be split or the outputs cannot be joined, or a layer fails: then the first
    /// [`Failure`](crate::Failure) in the schedule's order. Parameters, gradients and statistics are as before, and the pipeline can be used
    /// again.
    pub fn forward(&mut self, inputs: impl IntoFlow<M::Input>) -> Result<M::Output> {
        let mut packer = Packer::default();
        inputs.into_flow().pack(&mut packer);
        let batch = packer.finish();
        let parameters = self.trainable();
        let wanted = !parameters.is_empty() || batch.items.iter().any(|item| item.needs_gradient);
        let gradients = grad_enabled() && wanted;
        if gradients && self.network.scheduling != Scheduling::Method(Method::GPipe) {
            return Err(Error::Setting(format!(
                "`forward` and `backward()` run GPipe's order, but this pipeline was built for {}: use `train_step`, or build it with `schedule(Method::GPipe)`. \
                 Under `no_grad`, `forward` works with every schedule",
                match &self.network.scheduling {
                    Scheduling::Method(method) => format!("`{method}`"),
                    Scheduling::Own(_) => "a schedule of your own".to_owned(),
                }
            )));
        }

        let (micro_batches, shape) = self.scatter_inputs(&batch)?;
        let inputs: Vec<_> = micro_batches.iter().map(Parcel::share).collect();
        let (call, mut outputs) = Call::run(&self.network, micro_batches, self.training, gradients)?;
        let join = |outputs: Vec<Parcel>| {
            let outputs = outputs.into_iter().map(|parcel| M::Output::unpack(&mut Unpacker::new(parcel)));
            M::Output::join(outputs.collect(), &shape)
        };
        let differentiable = outputs.iter().flat_map(|parcel| &parcel.items).any(|item| item.needs_gradient);
        let attached = match gradients && differentiable {
            true => attach_node(Arc::clone(&call), &mut outputs, &inputs, &parameters),
            false => Ok(()),
        };
        let unchanged = match inputs.iter().flat_map(|parcel| &parcel.items).any(|item| gradients && item.needs_gradient && item.is_changed()) {
            true => Err(Error::Input(
                "an input that wants a gradient was modified by an in-place operation of a layer, which the caller's graph cannot see: \
                 let the layer work on a copy"
                    .into(),
            )),
            false => Ok(()),
        };
        let joined = unchanged.and(attached).and_then(|()| join(outputs));
        match joined.is_ok() {
            true => call.keep_buffers(),
            false => call.restore_buffers()?,
        }
        joined
    }

    pub(crate) fn scatter_inputs(&self, batch: &Parcel) -> Result<(Vec<Parcel>, MiniBatch)> {
        let devices = batch.items.iter().map(|item| item.tensor.device());
        check_devices(self.network.stages[0].device, devices)?;
        scatter(batch, self.chunks, grad_enabled())
    }

    pub(crate) fn network(&self) -> &Arc<Network> {
        &self.network
    }

    pub(crate) fn trainable(&self) -> Vec<Tensor> {
        self.variables.trainable_variables().into_iter().filter(Tensor::requires_grad).collect()
    }

    /// Training mode: dropout is on, batch norm uses the batch's statistics and updates the running ones, checkpointing applies.
    pub fn train(&mut self) {
        self.training = true;
    }

    /// Evaluation mode.
    pub fn eval(&mut self) {
        self.training = false;
    }

    /// Whether the pipeline is in training mode.
    pub fn is_training(&self) -> bool {
        self.training
    }

    /// The greatest number of micro-batches into which a mini-batch is split.
    pub fn chunks(&self) -> usize {
        self.chunks
    }

    /// The order of training steps.
    pub fn schedule(&self) -> &Scheduling {
        &self.network.scheduling
    }

    /// Which micro-batches are checkpointed.
    pub fn checkpoint(&self) -> Checkpoint {
        self.network.checkpoint
    }

    /// The model, whole again. Graphs of earlier calls that would have to recompute a stage fail from now on.
    pub fn into_inner(self) -> M {
        let stages = self.network.stages.iter().map(|slot| lock(&slot.body).take());
        let stages = stages.collect::<Option<Vec<_>>>().expect("only this handle takes the stages out");
        M::assemble(&mut Layers::new(stages), self.plain)
    }
}

/// The number of intra-op threads is one that a machine may have.
pub(crate) fn check_threads(threads: Option<usize>) -> Result<()> {
    match threads {
        Some(threads @ (0 | 4097..)) => {
            Err(Error::Setting(format!("the number of intra-op threads must be between 1 and 4096, not {threads}")))
        }
        _ => Ok(()),
    }
}

/// Inputs are not moved behind the caller's back: a copy in each step is for the caller to see.
fn check_devices(first: Device, inputs: impl IntoIterator<Item = Device>) -> Result<()> {
    match inputs.into_iter().find(|&device| device != first) {
        None => Ok(()),
        Some(device) => Err(Error::Input(format!(
            "All inputs should be on the same device as the first partition: that is on {}, an input on {}; move it with `to_device`",
            Devices::new([first]),
            Devices::new([device])
        ))),
    }
}

impl<M: Pipeline> Deref for Pipe<M> {
    type Target = M::Plain;

    fn deref(&self) -> &M::Plain {
        &self.plain
    }
}

impl<M: Pipeline> std::fmt::Debug for Pipe<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipe")
            .field("model", &M::PLAN.name)
            .field("stages", &M::PLAN.stages.len())
            .field("chunks", &self.chunks)
            .field("checkpoint", &self.network.checkpoint)
            .field("training", &self.training)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_on_another_device_is_refused() {
        let gpu = Device::Cuda(1);
        assert!(check_devices(gpu, [gpu, gpu]).is_ok());
        let error = check_devices(gpu, [gpu, Device::Cpu]).unwrap_err().to_string();
        assert!(error.starts_with("All inputs should be on the same device as the first partition"), "{error}");
        assert!(error.contains("on cuda:1, an input on cpu"), "{error}");
    }
}
