//! The comparison of a step with the same step elsewhere.

use std::fmt;

use tch::{Kind, Tensor};

use super::run::Outcome;

/// Tolerance of a comparison.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Nearness {
    /// Every bit is equal.
    Bits,
    /// Maximum norm of the difference, relative to the norm of the expected tensor.
    Relative(f64),
}

/// A comparison of two outcomes, with its tolerances.
pub struct Comparison<'c> {
    /// Tolerance for outputs, losses and the input's gradient.
    pub values: Nearness,
    /// Tolerance for the gradient of the variable of this name.
    pub gradients: &'c dyn Fn(&str) -> Nearness,
    /// Tolerance for variables, or `None` if they are not compared.
    pub state: Option<Nearness>,
    /// Whether there were no gradients before the step. Otherwise they were set to zero, so a
    /// gradient that plain tch does not have is zero.
    pub fresh: bool,
}

impl Comparison<'_> {
    /// Asserts that two steps have the same outcome.
    pub fn assert(&self, found: &Outcome, expected: &Outcome, about: &dyn fmt::Display) {
        let near = |what: &str, nearness, found: &Tensor, expected: &Tensor| {
            assert!(
                is_near(nearness, found, expected),
                "{what}, {about}: found {found:?}, expected {expected:?}, apart by {}",
                distance(found, expected)
            );
        };
        near("output", self.values, &found.output, &expected.output);
        if found.losses.len() == expected.losses.len() {
            for (found, expected) in found.losses.iter().zip(&expected.losses) {
                near("loss", self.values, found, expected);
            }
        }
        match (&found.input, &expected.input) {
            (None, None) => {}
            (Some(found), Some(expected)) => near("gradient of the input", self.values, found, expected),
            (found, expected) => panic!("gradient of the input, {about}: found {found:?}, expected {expected:?}"),
        }
        assert!(found.gradients.keys().eq(expected.gradients.keys()), "names, {about}");
        for (name, expected) in &expected.gradients {
            let what = format!("gradient of {name}");
            match (&found.gradients[name], expected) {
                (None, None) => {}
                (Some(found), Some(expected)) => near(&what, (self.gradients)(name), found, expected),
                (Some(found), None) if !self.fresh => near(&what, Nearness::Bits, found, &found.zeros_like()),
                (found, expected) => panic!("{what}, {about}: found {found:?}, expected {expected:?}"),
            }
        }
        if let Some(nearness) = self.state {
            for (name, expected) in &expected.state {
                near(&format!("variable {name}"), nearness, &found.state[name], expected);
            }
        }
    }
}

fn is_near(nearness: Nearness, found: &Tensor, expected: &Tensor) -> bool {
    match nearness {
        Nearness::Bits => same_bits(found, expected),
        Nearness::Relative(most) => distance(found, expected) <= most,
    }
}

fn dense(tensor: &Tensor) -> Tensor {
    let tensor = if tensor.is_sparse() { tensor.to_dense(None, false) } else { tensor.shallow_clone() };
    if tensor.is_complex() { tensor.view_as_real() } else { tensor }
}

/// Whether two tensors have the same layout, kind, shape and values. Values are equal bit by bit,
/// except for the sign of zero.
pub fn same_bits(a: &Tensor, b: &Tensor) -> bool {
    a.is_sparse() == b.is_sparse() && a.kind() == b.kind() && dense(a).equal(&dense(b))
}

/// Norm of the difference, relative to the norm of the expected tensor.
pub fn distance(found: &Tensor, expected: &Tensor) -> f64 {
    let (found, expected) = (dense(found).to_kind(Kind::Double), dense(expected).to_kind(Kind::Double));
    if found.size() != expected.size() {
        return f64::INFINITY;
    }
    let norm = |tensor: &Tensor| f64::try_from(tensor.norm()).unwrap_or(f64::NAN);
    norm(&(found - &expected)) / norm(&expected).max(1e-3)
}
