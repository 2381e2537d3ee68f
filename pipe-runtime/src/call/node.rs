use std::sync::Arc;

use tch::Tensor;

use super::backward::BackwardRun;
use super::forward::Call;
use crate::flow::{Item, Joined, Parcel};
use crate::torch::{Backward, GradMode, Parameters, attach};
use crate::{Error, Result};

/// The call as one node of the caller's graph.
struct CallNode {
    call: Arc<Call>,
    parameters: Arc<Parameters>,
    parameter_count: usize,
    /// For each output tensor, the rows of each micro-batch's part; `None` if it was one micro-batch, taken as it is.
    outputs: Vec<Option<Vec<i64>>>,
    inputs: Vec<Input>,
}

/// What the backward must know of an input tensor.
struct Input {
    whole: bool,
    /// For each micro-batch, the shape of its part; to fill in for those that get no gradient.
    parts: Vec<Tensor>,
}

/// Makes the outputs of `call` results of one autograd node over `batch` (the caller's tensors) and `parameters`, whose backward is
/// the pipelined one. `micro_batches` are the parts into which `batch` was split.
pub(crate) fn attach_node(
    call: Arc<Call>,
    outputs: &mut Joined,
    batch: &Parcel,
    micro_batches: Vec<Parcel>,
    parameters: &[Tensor],
) -> Result<()> {
    let mut parts: Vec<Vec<Tensor>> = batch.items.iter().map(|_| Vec::new()).collect();
    for micro_batch in micro_batches {
        for (parts, item) in parts.iter_mut().zip(micro_batch.items) {
            parts.push(item.tensor);
        }
    }
    let input = |(item, parts): (&Item, Vec<Tensor>)| Input { whole: item.whole, parts };
    let node = CallNode {
        call,
        parameters: Arc::new(Parameters::new(parameters)?),
        parameter_count: parameters.len(),
        outputs: outputs.rows.clone(),
        inputs: batch.items.iter().zip(parts).map(input).collect(),
    };
    for item in &mut outputs.parcel.items {
        // The last stage's tensor may be in the caller's hands already (an input passed through): history goes on a handle of its own.
        item.tensor = item.tensor.detach();
    }
    let differentiable: Vec<_> = outputs.parcel.items.iter().map(|item| item.needs_gradient).collect();
    let results: Vec<_> = outputs.parcel.items.iter().map(|item| &item.tensor).collect();
    let inputs: Vec<_> = batch.items.iter().map(|item| &item.tensor).chain(parameters).collect();
    attach(&results, &differentiable, &inputs, Box::new(node))?;
    Ok(())
}

impl Backward for CallNode {
    fn backward(&mut self, gradients: Vec<Option<Tensor>>, keep_graph: bool) -> Result<Vec<Option<Tensor>>, String> {
        self.run(gradients, keep_graph).map_err(|error| error.to_string())
    }

    fn arity(&self) -> (usize, usize) {
        (self.outputs.len(), self.inputs.len() + self.parameter_count)
    }
}

impl CallNode {
    fn run(&self, gradients: Vec<Option<Tensor>>, keep_graph: bool) -> Result<Vec<Option<Tensor>>> {
        let _constant = GradMode::set(false);
        let network = &self.call.network;
        let (input, output) = network.ends();
        let run = Arc::new(BackwardRun::new(Arc::clone(&self.call), keep_graph, Arc::clone(&self.parameters))?);
        for (position, (gradient, rows)) in gradients.into_iter().zip(&self.outputs).enumerate() {
            let Some(gradient) = gradient else { continue };
            for (micro_batch, part) in split(gradient, rows.as_deref())?.into_iter().enumerate() {
                run.gradients.at(output, micro_batch).push((position, part));
            }
        }
        network.engine.run(run.clone())?;

        let mut results = Vec::with_capacity(self.inputs.len() + self.parameter_count);
        for (position, whole) in self.inputs.iter().enumerate() {
            let parts = (0..self.call.micro_batches).map(|micro_batch| {
                let mut arrived = run.gradients.at(input, micro_batch);
                let index = arrived.iter().position(|(at, _)| *at == position);
                index.map(|index| arrived.swap_remove(index).1)
            });
            results.push(whole.gradient(parts.collect())?);
        }
        let mut sums = run.take_sums()?;
        for index in 0..self.parameter_count {
            results.push(sums.take(index)?);
        }
        Ok(results)
    }
}

/// The parts of an output's gradient, one per micro-batch.
fn split(gradient: Tensor, rows: Option<&[i64]>) -> Result<Vec<Tensor>> {
    match rows {
        None => Ok(vec![gradient]),
        Some(rows) => Ok(gradient.f_split_with_sizes(rows, 0)?),
    }
}

impl Input {
    /// The gradient of the whole input, from those of its parts.
    fn gradient(&self, parts: Vec<Option<Tensor>>) -> Result<Option<Tensor>> {
        if parts.iter().all(Option::is_none) {
            return Ok(None);
        }
        if self.whole || parts.len() == 1 {
            // In place, the last micro-batch's gradient arrives first.
            let mut arrived = parts.into_iter().rev().flatten();
            let first = arrived.next();
            return Ok(arrived.try_fold(first, |sum, part| match sum {
                Some(sum) => sum.f_add(&part).map(Some),
                None => Ok(Some(part)),
            })?);
        }
        let filled = parts.into_iter().zip(&self.parts).map(|(gradient, part)| match gradient {
            Some(gradient) => Ok(gradient),
            None => part.f_zeros_like(),
        });
        let filled = filled.collect::<Result<Vec<_>, _>>().map_err(Error::from)?;
        Ok(Some(Tensor::f_cat(&filled, 0)?))
    }
}
