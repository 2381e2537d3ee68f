//! Layers that pipelines need and tch lacks.

mod deferred_batch_norm;

pub use deferred_batch_norm::{DeferredBatchNorm, DeferredBatchNormConfig};

use tch::Tensor;

use crate::model::{Context, Layer};

/// Returns its input, of any type. It serves as a place for a stage boundary or a skip, or as a
/// placeholder for a layer. For an optional layer, use an `Option` of the layer. It corresponds to
/// `torch.nn.Identity`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity;

impl<T> Layer<T> for Identity {
    type Out = T;

    fn run(&self, input: T, _cx: &Context) -> T {
        input
    }
}

/// Concatenates the input and a popped skip along one dimension, as `torch.cat`. With the default,
/// dimension 1, `[N, C, ...]` and `[N, D, ...]` become `[N, C + D, ...]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Concat {
    dim: i64,
}

impl Concat {
    /// Creates a layer that concatenates along dimension `dim`. Negative dimensions count from the
    /// last.
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

/// Adds a popped skip to the input, as at the end of a residual connection. The shapes must
/// broadcast.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Add;

impl Layer<(Tensor, Tensor)> for Add {
    type Out = Tensor;

    fn run(&self, (x, skip): (Tensor, Tensor), _cx: &Context) -> Tensor {
        x + skip
    }
}
