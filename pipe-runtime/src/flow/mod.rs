//! Values that flow into a pipeline, across its stage boundaries and out of it.

/// Implements [`Flow`] for a tuple struct around one value. It flows like that value, except that
/// `$pack` packs it and `$join` joins it. `$parts` are the inner values of the micro-batches.
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

/// A value that can cross a stage boundary, be split into micro-batches and be joined again.
///
/// Tensors, tuples, arrays, `Vec`, `Option`, numbers, `bool`, `char`, `String` and `Arc<T>`
/// implement it. So do the wrappers that say how a value relates to the rows of the batch:
/// [`Replicate`], [`Along`], [`PerRow`], [`Rows`] and [`Each`]. A value is packed into its tensors
/// and its other parts, and is unpacked from them in the same order.
///
/// At the pipeline's input and in targets, tensors are split along dimension 0, where all of them
/// must have the same number of rows. A bare `Vec` is refused there, because it does not say how it
/// relates to the rows.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot cross a stage boundary or be kept for a later layer",
    label = "this value would have to be `Flow`",
    note = "tensors, tuples, arrays, `Vec`, `Option`, numbers, `bool`, `String`, `Arc<T>`, `Replicate`, `Along`, `PerRow`, `Rows` and `Each` are, and by `#[derive(Flow)]` structs of them"
)]
pub trait Flow: Sized + Send + 'static {
    /// Passes the parts of the value to `packer`.
    fn pack(self, packer: &mut Packer);

    /// Rebuilds a value from the parts that [`pack`](Flow::pack) passed on, in the same order.
    fn unpack(unpacker: &mut Unpacker) -> Self;

    /// Returns a second handle on the same value. Tensors share their memory and their gradients.
    fn share(&self) -> Self;

    /// Joins the values of the micro-batches (at least one) into the value of the mini-batch.
    ///
    /// A single value is returned unchanged. Otherwise tensors are concatenated along dimension 0
    /// and plain values must be equal, unless the type says otherwise ([`Sum`], [`Mean`],
    /// [`List`]).
    ///
    /// # Errors
    ///
    /// Fails if the parts cannot be joined:
    /// * a tensor has no dimension to join along, or libtorch cannot concatenate or add them;
    /// * plain values, the lengths of a `Vec` or the presence of an `Option` differ;
    /// * a [`Replicate`] comes from several micro-batches.
    fn join(parts: Vec<Self>, batch: &MiniBatch) -> Result<Self>;
}
