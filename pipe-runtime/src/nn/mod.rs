//! Layers that pipelines need and tch does not have.

mod deferred_batch_norm;

pub use deferred_batch_norm::{DeferredBatchNorm, DeferredBatchNormConfig};

use tch::Tensor;

use crate::model::{Context, Layer};

/// Joins the input and a popped skip along one dimension. For the default, dimension 1,
/// `[N, C, ...]` and `[N, D, ...]` give `[N, C + D, ...]`.
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
