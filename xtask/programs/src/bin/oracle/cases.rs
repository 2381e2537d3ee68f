//! Runs one step of a pipeline, and writes its results.

use std::collections::HashSet;
use std::path::Path;

use anyhow::Result;
use pipe_runtime::{Checkpoint, IntoFlow, PipeBuilder};
use serde_json::{Value, json};
use tch::{Kind, Tensor};

use crate::models::Subject;

/// The settings of a step.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    rows: i64,
    chunks: usize,
    checkpoint: Checkpoint,
    training: bool,
}

/// Rows and chunks: one micro-batch, and several that are even, ragged (3, 3, 1), fewer than chunks
/// (2, 2, 1), or of one row each.
const BATCHES: [(i64, usize); 5] = [(8, 1), (8, 4), (7, 3), (5, 4), (2, 4)];

const MODES: [Checkpoint; 3] = [Checkpoint::Always, Checkpoint::ExceptLast, Checkpoint::Never];

/// All settings for training. In evaluation, the checkpoint mode makes no difference.
pub fn all(training: bool) -> impl Iterator<Item = Case> {
    let modes = if training { &MODES[..] } else { &MODES[..1] };
    let case = move |(rows, chunks), &checkpoint| Case { rows, chunks, checkpoint, training };
    BATCHES.into_iter().flat_map(move |batch| modes.iter().map(move |mode| case(batch, mode)))
}

impl Case {
    /// Runs a model with random weights, writes a file and returns its description.
    pub fn run<S: Subject<Input: IntoFlow<S::Input>>>(self, folder: &Path) -> Result<Value> {
        let Self { rows, chunks, checkpoint, training } = self;
        let file = format!("{}-{rows}-{chunks}-{checkpoint}-{training}.safetensors", S::NAME);
        let mut record: Vec<(String, Tensor)> = Vec::new();
        let mut note = |kind: &str, name: &str, tensor: &Tensor| {
            record.push((format!("{kind}/{name}"), tensor.detach().copy().contiguous()));
        };

        let (model, vars) = S::make()?;
        let mut variables: Vec<_> = vars.var_store().variables().into_iter().collect();
        variables.sort_by(|(a, _), (b, _)| a.cmp(b));
        for (name, variable) in &variables {
            // Some are initially all ones or zeros, which would hide their effect. A variance must
            // be positive.
            let mut values = variable.randn_like() * 0.5;
            if name.ends_with("running_var") {
                values = values.square() + 0.5;
            }
            tch::no_grad(|| variable.shallow_clone().copy_(&values));
            note("before", name, variable);
        }

        let inputs: Vec<_> = S::tensors(rows).into_iter().map(|tensor| tensor.set_requires_grad(true)).collect();
        let builder = PipeBuilder::new(model, &vars).chunks(chunks).checkpoint(checkpoint);
        let mut pipe = builder.intra_op_threads(1).build()?;
        if !training {
            pipe.eval();
        }
        let outputs = S::outputs(pipe.forward(S::input(&inputs))?);

        // The loss has a separate weight for each number.
        let weights: Vec<_> = outputs.iter().map(|output| output.detach().randn_like()).collect();
        let weighted = outputs.iter().zip(&weights).map(|(output, weight)| (output * weight).sum(Kind::Float));
        weighted.sum::<Tensor>().f_backward()?;

        for (index, (output, weight)) in outputs.iter().zip(&weights).enumerate() {
            note("output", &index.to_string(), output);
            note("loss_weight", &index.to_string(), weight);
        }
        for (index, input) in inputs.iter().enumerate() {
            note("input", &index.to_string(), input);
            note("input_gradient", &index.to_string(), &input.grad());
        }
        let trained: HashSet<_> = vars.var_store().trainable_variables().iter().map(Tensor::data_ptr).collect();
        for (name, variable) in &variables {
            match trained.contains(&variable.data_ptr()) {
                true => note("gradient", name, &variable.grad()),
                false => note("after", name, variable),
            }
        }
        Tensor::write_safetensors(&record, folder.join(&file))?;
        Ok(json!({
            "model": S::NAME,
            "rows": rows,
            "chunks": chunks,
            "checkpoint": checkpoint.to_string(),
            "training": training,
            "file": file,
        }))
    }
}
