use std::sync::{Arc, Mutex};

use pipe_schedule::Order;
use tch::Tensor;

use super::backward::BackwardRun;
use super::forward::Call;
use crate::error::{Error, Result};
use crate::flow::{PackedValue, Sources};
use crate::lock::lock;
use crate::torch::{Backward, GradMode, attach, version};

/// The call as one node of the caller's autograd graph. Its inputs are the micro-batches that the
/// caller's mini-batch was split into, and the parameters; its results are the micro-batches'
/// outputs. Splitting and joining are ordinary operators of the caller's graph.
struct CallNode {
    call: Arc<Call>,
    order: Arc<Order>,
    /// The parameters with their version counters after the forward. Empty if nothing will be
    /// recomputed with them.
    versions: Mutex<Vec<(Tensor, u64)>>,
    /// The caller's tensors that were split into the micro-batches.
    sources: Sources,
    /// The number of tensors of each micro-batch's input. Ragged micro-batches have fewer for
    /// `Rows`.
    inputs: Vec<usize>,
    /// The tensor that each result of the node stands for: (micro-batch, position in its value).
    outputs: Vec<(usize, usize)>,
}

/// Turns the tensors of `outputs` into the results of one new autograd node, which has the tensors
/// of `inputs` and the parameters as inputs and runs the pipelined backward. `sources` are the
/// caller's tensors that were split into `inputs`.
pub(crate) fn attach_node(
    call: Arc<Call>,
    outputs: &mut [PackedValue],
    inputs: &[PackedValue],
    sources: Sources,
) -> Result<()> {
    let parameters = Arc::clone(&call.parameters);
    let positions = |(micro_batch, value): (usize, &PackedValue)| {
        (0..value.tensors.len()).map(move |position| (micro_batch, position)).collect::<Vec<_>>()
    };
    let node = CallNode {
        order: call.backward_order()?,
        versions: Mutex::new(match call.recomputes_some() {
            true => parameters.tensors().iter().map(|tensor| (tensor.shallow_clone(), version(tensor))).collect(),
            false => Vec::new(),
        }),
        sources,
        inputs: inputs.iter().map(|value| value.tensors.len()).collect(),
        outputs: outputs.iter().enumerate().flat_map(positions).collect(),
        call,
    };
    for item in outputs.iter_mut().flat_map(|value| &mut value.tensors) {
        // The caller may hold this tensor already (an input that passed through), so the autograd
        // history is attached to a separate handle.
        item.tensor = item.tensor.f_detach()?;
    }
    let results = outputs.iter().flat_map(|value| &value.tensors);
    let differentiable: Vec<_> = results.clone().map(|item| item.needs_gradient).collect();
    let results: Vec<_> = results.map(|item| &item.tensor).collect();
    // libtorch adds gradients in the order of the inputs. In an unpipelined run, the last
    // micro-batch's gradient of a shared tensor arrives first.
    let inputs = inputs.iter().rev().flat_map(|value| &value.tensors).map(|item| &item.tensor);
    let inputs: Vec<_> = inputs.chain(parameters.tensors()).collect();
    attach(&results, &differentiable, &inputs, Box::new(node))?;
    Ok(())
}

impl Backward for CallNode {
    fn backward(&self, gradients: Vec<Option<Tensor>>, keep_graph: bool) -> Result<Vec<Option<Tensor>>, String> {
        self.run(gradients, keep_graph).map_err(|error| error.to_string())
    }

    fn arity(&self) -> (usize, usize) {
        (self.outputs.len(), self.inputs.iter().sum::<usize>() + self.call.parameters.tensors().len())
    }
}

impl CallNode {
    fn run(&self, gradients: Vec<Option<Tensor>>, keep_graph: bool) -> Result<Vec<Option<Tensor>>> {
        let _constant = GradMode::set(false);
        if lock(&self.versions).iter().any(|(tensor, then)| version(tensor) != *then) {
            return Err(Error::Setting(
                "a parameter was modified by an in-place operation between the forward and its backward, which would recompute with it"
                    .into(),
            ));
        }
        self.sources.tell_parts()?;
        let pipeline = &self.call.pipeline;
        let (input, output) = pipeline.ends();
        let (call, order) = (Arc::clone(&self.call), Arc::clone(&self.order));
        let run = Arc::new(BackwardRun::new(call, order, keep_graph)?);
        for (gradient, &(micro_batch, position)) in gradients.into_iter().zip(&self.outputs) {
            run.gradients.at(output, micro_batch).extend(gradient.map(|gradient| (position, gradient)));
        }
        self.call.run_job(run.clone(), None)?;
        self.call.parameters.none_is_forgotten()?;

        let mut results = Vec::with_capacity(self.arity().1);
        for micro_batch in (0..self.call.micro_batches).rev() {
            let mut arrived = run.gradients.at(input, micro_batch);
            for position in 0..self.inputs[micro_batch] {
                let index = arrived.iter().position(|(at, _)| *at == position);
                results.push(index.map(|index| arrived.swap_remove(index).1));
            }
        }
        pipeline.streams.used_here(results.iter().flatten())?;
        let mut sums = run.take_sums()?;
        for index in 0..self.call.parameters.tensors().len() {
            results.push(sums.take(index)?);
        }
        Ok(results)
    }
}
