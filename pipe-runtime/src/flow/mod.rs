//! Values that flow: through a pipeline, across its stage boundaries, in and out of it.

/// How a tuple struct around one value flows: as that value, but for how it is packed and joined.
/// `parts` are the values of the micro-batches, without what is around them.
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
/// Tensors, tuples, arrays, `Vec`, `Option`, numbers, `bool`, `String` and `Arc<T>` flow, and so
/// does what says how it belongs to the rows of the batch: [`Replicate`], [`Along`], [`PerRow`],
/// [`Rows`] and [`Each`]. A value takes itself apart into tensors and the rest, and is put
/// together from them in the same order.
///
/// At the pipeline's input and in targets, tensors are split along dimension 0, of which all must
/// have as many rows. A bare `Vec` is refused there: it does not say how it belongs to the rows.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot cross a stage boundary or be kept for a later layer",
    label = "this value would have to be `Flow`",
    note = "tensors, tuples, arrays, `Vec`, `Option`, numbers, `bool`, `String`, `Arc<T>`, `Replicate`, `Along`, `PerRow`, `Rows` and `Each` are, and by `#[derive(Flow)]` structs of them"
)]
pub trait Flow: Sized + Send + 'static {
    /// Takes the value apart.
    fn pack(self, packer: &mut Packer);

    /// Puts a value together from what [`pack`](Flow::pack) made of one, in the same order.
    fn unpack(unpacker: &mut Unpacker) -> Self;

    /// A second handle on the same value: tensors share their memory and their gradients.
    fn share(&self) -> Self;

    /// The whole mini-batch's value, from those of its micro-batches (at least one). A single one
    /// is taken as it is; of several, tensors are joined along dimension 0 and plain values must
    /// agree, unless the type says otherwise ([`Sum`], [`Mean`], [`List`]).
    ///
    /// # Errors
    ///
    /// If the parts cannot be joined.
    fn join(parts: Vec<Self>, batch: &MiniBatch) -> Result<Self>;
}
