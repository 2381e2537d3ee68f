//! Values that flow through a pipeline: across its stage boundaries, in and out.

/// Implements `Flow` for a tuple struct around one value: it flows as that value, except for
/// packing and joining. `parts` are the inner values of the micro-batches.
macro_rules! wraps {
    (
        [$($generics:tt)*] $name:ty, $inner:ty,
        |$value:ident, $packer:ident| $pack:expr,
        |$parts:ident, $batch:ident| $join:expr $(,)?
    ) => {
        impl<$($generics)*> Flow for $name {
            fn pack(self, $packer: &mut Packer) {
                let $value = self.0;
                $pack
            }

            fn unpack(unpacker: &mut Unpacker) -> Self {
                Self(<$inner>::unpack(unpacker))
            }

            fn share(&self) -> Self {
                Self(self.0.share())
            }

            fn join(parts: Vec<Self>, $batch: &MiniBatch) -> Result<Self> {
                #[allow(unused_mut)]
                let mut $parts: Vec<$inner> = parts.into_iter().map(|part| part.0).collect();
                $join.map(Self)
            }
        }
    };
}

mod batch;
mod into_flow;
mod packed;
mod reduce;
mod rows;
mod sources;
mod values;
mod wrappers;

pub use batch::MiniBatch;
pub use into_flow::IntoFlow;
pub use packed::{Packer, Unpacker};
pub use reduce::{List, Mean, Sum};
pub use wrappers::{Along, Each, PerRow, Replicate, Rows};

pub(crate) use batch::{Scattered, scatter, scatter_targets};
pub(crate) use packed::{PackedTensor, PackedValue};
pub(crate) use sources::Sources;

use crate::error::Result;

/// A value that can cross a stage boundary, be split into micro-batches and joined again.
///
/// Tensors, tuples, arrays, `Vec`, `Option`, numbers, `bool`, `String` and `Arc<T>` are `Flow`, and
/// so are the wrappers that say how a value belongs to the rows of the batch: [`Replicate`],
/// [`Along`], [`PerRow`], [`Rows`] and [`Each`]. A value is packed into tensors and other parts,
/// and unpacked from them in the same order.
///
/// At the pipeline's input and in targets, tensors are split along dimension 0, and all must have
/// the same number of rows. A bare `Vec` is refused there, because it does not say how it belongs
/// to the rows.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot cross a stage boundary or be kept for a later layer",
    label = "this value would have to be `Flow`",
    note = "tensors, tuples, arrays, `Vec`, `Option`, numbers, `bool`, `String`, `Arc<T>`, `Replicate`, `Along`, `PerRow`, `Rows` and `Each` are, and by `#[derive(Flow)]` structs of them"
)]
pub trait Flow: Sized + Send + 'static {
    /// Packs the value.
    fn pack(self, packer: &mut Packer);

    /// Unpacks a value from what [`pack`](Flow::pack) added, in the same order.
    fn unpack(unpacker: &mut Unpacker) -> Self;

    /// Returns a second handle to the same value. Tensors share their memory and their gradients.
    fn share(&self) -> Self;

    /// Joins the values of the micro-batches (at least one) into the value of the mini-batch. A
    /// single one is returned as it is. Otherwise, tensors are joined along dimension 0 and plain
    /// values must be equal, unless the type says otherwise ([`Sum`], [`Mean`], [`List`]).
    ///
    /// # Errors
    ///
    /// Fails if the parts cannot be joined.
    fn join(parts: Vec<Self>, batch: &MiniBatch) -> Result<Self>;
}
