//! Compares a pipelined training step with the unpipelined one, bit by bit.

use std::fmt;

use anyhow::Result;
use pipe_examples::digits::Dataset;
use pipe_runtime::{Devices, Pipe, World};
use tch::{Kind, Tensor};

use crate::model::{Digits, DigitsVars};

/// Results of a step by name: the output, and the gradients of the input and of each parameter.
type Step = Vec<(String, Tensor)>;

/// Result of the comparison. Prints as `yes`, or as `no` with the name of the first tensor that
/// differs on the next line.
#[derive(Debug)]
pub enum Verdict {
    Identical,
    Different {
        first: String,
    },
    /// The stages are on several devices, and the unpipelined run needs a single one.
    SeveralDevices,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identical => f.write_str("yes"),
            Self::Different { first } => write!(f, "no\n{first}"),
            Self::SeveralDevices => f.write_str("not compared, as the stages are on different devices"),
        }
    }
}

/// Runs one step on `batch` both ways, with the same weights and the same seed.
pub fn compare(mut pipe: Pipe<Digits>, vars: &DigitsVars, batch: &Dataset, seed: i64) -> Result<Verdict> {
    let devices = vars.devices();
    if devices.iter().any(|&device| device != devices[0]) {
        return Ok(Verdict::SeveralDevices);
    }
    let chunks = pipe.chunks();
    let pipelined = step(vars, batch, seed, |images| pipe.forward(images))?;
    let net = pipe.into_inner();
    let unpipelined =
        step(vars, batch, seed, |images| net.unpipelined().chunks(chunks).intra_op_threads(1).forward(images))?;

    let mut pairs = pipelined.into_iter().zip(&unpipelined);
    let different = pairs.find(|((_, ours), (_, theirs))| !same_bits(ours, theirs));
    Ok(different.map_or(Verdict::Identical, |((first, _), _)| Verdict::Different { first }))
}

/// Compares a training step over several processes with the step of the whole model, unpipelined in
/// each of them: the output, and the gradients of the process's own parameters.
pub fn compare_over(
    world: &World,
    mut pipe: Pipe<Digits>,
    vars: &DigitsVars,
    batch: &Dataset,
    seed: i64,
) -> Result<Verdict> {
    let chunks = pipe.chunks();
    let whole = Digits::vars(&Devices::cpu(Digits::STAGES))?;
    let net = Digits::new(&whole);
    // A file is how the processes get the parameters of the others.
    let name = world.all_gather(std::process::id().to_string().as_bytes())?.swap_remove(0);
    let file = std::env::temp_dir().join(format!("digits-{}.safetensors", String::from_utf8(name)?));
    vars.save(&file)?;
    whole.load(&file)?;
    world.all_gather(&[])?;
    if world.is_first() {
        std::fs::remove_file(&file)?;
    }

    let parameters = |vars: &DigitsVars| -> Vec<(String, Tensor)> {
        let mut all: Vec<_> = vars.var_store().variables().into_iter().collect();
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        all
    };
    parameters(vars).iter_mut().for_each(|(_, parameter)| parameter.zero_grad());
    tch::manual_seed(seed);
    let cross_entropy = |logits: &Tensor, labels: &Tensor| logits.cross_entropy_for_logits(labels);
    let report = pipe.step().keep_output().run(&batch.images, &batch.labels, cross_entropy)?;
    let mut ours = vec![("output".to_owned(), report.output)];
    let here = parameters(vars).into_iter().filter(|(name, _)| vars.is_here(name));
    ours.extend(here.map(|(name, parameter)| (name, gradient(&parameter))));

    tch::manual_seed(seed);
    let logits = net.unpipelined().chunks(chunks).intra_op_threads(1).forward(&batch.images)?;
    let rows = (batch.rows() as usize).div_ceil(chunks) as i64;
    let parts = logits.split(rows, 0).into_iter().zip(batch.labels.split(rows, 0));
    let weighted = parts.map(|(logits, labels)| {
        logits.cross_entropy_for_logits(&labels) * (logits.size()[0] as f64 / batch.rows() as f64)
    });
    weighted.sum::<Tensor>().backward();
    let mut theirs = vec![("output".to_owned(), logits.detach())];
    let here = parameters(&whole).into_iter().filter(|(name, _)| vars.is_here(name));
    theirs.extend(here.map(|(name, parameter)| (name, gradient(&parameter))));

    let different = ours.iter().zip(&theirs).find(|((_, ours), (_, theirs))| !same_bits(ours, theirs));
    let different = different.map_or(String::new(), |((name, _), _)| name.clone());
    let different = world.all_gather(different.as_bytes())?.into_iter().find(|name| !name.is_empty());
    Ok(match different {
        None => Verdict::Identical,
        Some(first) => Verdict::Different { first: String::from_utf8(first)? },
    })
}

fn step(
    vars: &DigitsVars,
    batch: &Dataset,
    seed: i64,
    forward: impl FnOnce(&Tensor) -> pipe_runtime::Result<Tensor>,
) -> Result<Step> {
    let images = batch.images.detach().copy().set_requires_grad(true);
    let mut parameters: Vec<_> = vars.var_store().variables().into_iter().collect();
    parameters.sort_by(|(a, _), (b, _)| a.cmp(b));
    for (_, parameter) in &mut parameters {
        parameter.zero_grad();
    }

    tch::manual_seed(seed);
    let logits = forward(&images)?;
    logits.cross_entropy_for_logits(&batch.labels.to_device(logits.device())).backward();

    let mut step =
        vec![("output".to_owned(), logits.detach()), ("gradient of the input".to_owned(), gradient(&images))];
    step.extend(parameters.iter().map(|(name, parameter)| (format!("gradient of {name}"), gradient(parameter))));
    Ok(step)
}

/// Copies the gradient, because the next step overwrites it. The copy is undefined if there is
/// none.
fn gradient(tensor: &Tensor) -> Tensor {
    let gradient = tensor.grad();
    if gradient.defined() { gradient.copy() } else { gradient }
}

/// Whether shapes, kinds and all bits are equal. Values are compared as integers, so that NaN
/// equals itself and 0 does not equal -0.
fn same_bits(a: &Tensor, b: &Tensor) -> bool {
    match (a.defined(), b.defined()) {
        (true, true) => {
            (a.kind(), a.size()) == (b.kind(), b.size()) && a.view_dtype(Kind::Int) == b.view_dtype(Kind::Int)
        }
        (ours, theirs) => ours == theirs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_compared_not_values() {
        let tensor = |values: &[f32]| Tensor::from_slice(values);
        assert!(same_bits(&tensor(&[1.0, f32::NAN]), &tensor(&[1.0, f32::NAN])));
        assert!(same_bits(&Tensor::new(), &Tensor::new()));
        assert!(!same_bits(&tensor(&[1.0]), &Tensor::new()));
        assert!(!same_bits(&tensor(&[0.0]), &tensor(&[-0.0])));
        assert!(!same_bits(&tensor(&[1.0]), &tensor(&[1.0 + f32::EPSILON])));
        assert!(!same_bits(&tensor(&[1.0, 2.0]), &tensor(&[1.0, 2.0]).view([2, 1])));
        assert!(!same_bits(&tensor(&[0.0]), &Tensor::from_slice(&[0.0_f64])));
    }
}
