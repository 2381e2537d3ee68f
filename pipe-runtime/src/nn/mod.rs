//! Layers for pipelines that tch does not have.

mod deferred_batch_norm;

pub use deferred_batch_norm::{DeferredBatchNorm, DeferredBatchNormConfig};

use tch::Tensor;

use crate::model::{Context, Layer};

/// The identity, for any type: a place for a stage boundary or a skip. For a layer that may be
/// absent, use an `Option` of the layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity;

impl<T> Layer<T> for Identity {
    type Out = T;

    fn run(&self, input: T, _cx: &Context) -> T {
        input
    }
}

/// Joins the input and a popped skip along one dimension: `[N, C, ...]` and `[N, D, ...]` to
/// `[N, C + D, ...]` for the default, dimension 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Concat {
    dim: i64,
}

impl Concat {
    /// Joins along dimension `dim`.
    pub fn new(dim: i64) -> Self {
        Self { dim }
    }
}

impl Default for Concat {
    fn default() -> Self {
        Self::new(1)
    }
}

impl Layer<(Tensor, Tensor)> for Concat {
    type Out = Tensor;

    fn run(&self, (x, skip): (Tensor, Tensor), _cx: &Context) -> Tensor {
        Tensor::cat(&[x, skip], self.dim)
    }
}

/// Adds a popped skip to the input: the end of a residual connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Add;

impl Layer<(Tensor, Tensor)> for Add {
    type Out = Tensor;

    fn run(&self, (x, skip): (Tensor, Tensor), _cx: &Context) -> Tensor {
        x + skip
    }
}
