//! Compares a training step of a pipeline with its plain twin: the same step in plain tch, on the
//! whole mini-batch.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result, ensure};
use tch::{Device, Tensor};

/// The largest difference of outputs, relative to their largest number.
const OF_OUTPUTS: f64 = 1e-4;

/// The largest relative difference of losses.
const OF_LOSSES: f64 = 1e-5;
/// A smaller loss is a difference of larger numbers, and is measured as if it were this large.
const SMALLEST_LOSS: f64 = 0.1;

/// The largest difference of gradients, relative to the largest number of the variable's. Weights
/// of micro-batches that are wrong by some rows are above it.
const OF_GRADIENTS: f64 = 1e-3;
/// A gradient is measured as if its largest number were no less than this part of the model's. Some
/// are sums that cancel, such as those of a bias before a softmax, and rounding errors are as large
/// as their terms. Most are those of libtorch's fused attention, which the twins write out.
const SMALLEST_GRADIENT: f64 = 0.1;

/// Whether an output is that of the plain twin, but for rounding.
pub fn is_same(found: &Tensor, plain: &Tensor) -> bool {
    largest(&(found - plain)) <= largest(plain) * OF_OUTPUTS
}

/// Loss and gradients of a training step.
#[derive(Debug)]
pub struct Step {
    loss: f64,
    gradients: BTreeMap<String, Tensor>,
}

impl Step {
    /// Runs the pipeline's step, which returns its loss, and takes the gradients of the variables.
    ///
    /// # Errors
    ///
    /// Fails if the step does, or if a variable that is trained gets no gradient.
    pub fn pipelined(
        variables: HashMap<String, Tensor>,
        run: impl FnOnce() -> pipe_runtime::Result<Tensor>,
    ) -> Result<Self> {
        Self::taken(variables, || Ok(run()?))
    }

    /// Runs the backward of the twin's loss, and takes the gradients of the variables.
    ///
    /// # Errors
    ///
    /// Fails if a variable that is trained gets no gradient.
    pub fn plain(variables: HashMap<String, Tensor>, loss: impl FnOnce() -> Tensor) -> Result<Self> {
        Self::taken(variables, || {
            let loss = loss();
            loss.f_backward()?;
            Ok(loss)
        })
    }

    fn taken(mut variables: HashMap<String, Tensor>, run: impl FnOnce() -> Result<Tensor>) -> Result<Self> {
        variables.retain(|_, variable| variable.requires_grad());
        variables.values_mut().for_each(Tensor::zero_grad);
        let loss = f64::try_from(run()?)?;
        let gradient = |(name, variable): (String, Tensor)| {
            let gradient = variable.grad();
            ensure!(gradient.defined(), "`{name}` has no gradient");
            // A copy, because the next step zeroes the gradient.
            Ok((name, gradient.to_device(Device::Cpu).copy()))
        };
        let gradients = variables.into_iter().map(gradient).collect::<Result<_>>()?;
        Ok(Self { loss, gradients })
    }

    /// Compares with the step of the plain twin, and prints by how much they differ.
    ///
    /// # Errors
    ///
    /// Fails if they differ by more than rounding, or if the twin trains other variables.
    pub fn compare(&self, plain: &Self) -> Result<()> {
        let loss = (self.loss - plain.loss).abs() / plain.loss.abs().max(SMALLEST_LOSS);
        ensure!(loss <= OF_LOSSES, "the loss is {}, and {} by the plain twin", self.loss, plain.loss);
        let count = self.gradients.len();
        ensure!(count == plain.gradients.len(), "{count} gradients, and {} by the plain twin", plain.gradients.len());
        let largest = plain.gradients.values().map(largest).fold(0., f64::max);
        let mut most: f64 = 0.;
        for (name, plain) in &plain.gradients {
            let found = self.gradients.get(name).with_context(|| format!("the plain twin alone trains `{name}`"))?;
            let difference = self::largest(&(found - plain)) / self::largest(plain).max(largest * SMALLEST_GRADIENT);
            // This is false for NaN.
            let is_same = difference <= OF_GRADIENTS;
            ensure!(is_same, "the gradient of `{name}` differs by {difference:.1e} from that by the plain twin");
            most = most.max(difference);
        }
        println!(
            "twin: loss within {loss:.8} (at most {OF_LOSSES:.5}), {count} gradients within {most:.7} (at most {OF_GRADIENTS})"
        );
        Ok(())
    }
}

/// The largest absolute value.
fn largest(tensor: &Tensor) -> f64 {
    tensor.abs().max().double_value(&[])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A step of `y = factor * x * weight` with one variable, and one that is frozen.
    fn step(factor: f64) -> Step {
        let weight = Tensor::from_slice(&[1., 2.]).set_requires_grad(true);
        let frozen = Tensor::from_slice(&[3., 4.]);
        let variables = [("weight", &weight), ("frozen", &frozen)];
        let variables = variables.map(|(name, variable)| (name.to_owned(), variable.shallow_clone()));
        Step::plain(variables.into(), || (&weight * &frozen).sum(None) * factor).unwrap()
    }

    fn refusal(found: &Step, plain: &Step) -> String {
        found.compare(plain).unwrap_err().to_string()
    }

    #[test]
    fn steps_that_differ_by_rounding_alone_are_the_same() {
        assert_eq!(step(1.).gradients.keys().collect::<Vec<_>>(), ["weight"]);
        step(1. + 1e-6).compare(&step(1.)).unwrap();
    }

    #[test]
    fn another_loss_or_gradient_is_refused() {
        assert_eq!(refusal(&step(2.), &step(1.)), "the loss is 22, and 11 by the plain twin");
        for (wrong, shown) in [(4.01, "2.5e-3"), (f64::NAN, "NaN")] {
            let mut found = step(1.);
            found.gradients.insert("weight".to_owned(), Tensor::from_slice(&[3., wrong]));
            let expected = format!("the gradient of `weight` differs by {shown} from that by the plain twin");
            assert_eq!(refusal(&found, &step(1.)), expected);
        }
    }

    #[test]
    fn a_twin_of_another_model_is_refused() {
        let mut found = step(1.);
        let gradient = found.gradients.remove("weight").unwrap();
        assert_eq!(refusal(&found, &step(1.)), "0 gradients, and 1 by the plain twin");
        found.gradients.insert("bias".to_owned(), gradient);
        assert_eq!(refusal(&found, &step(1.)), "the plain twin alone trains `weight`");
    }
}
