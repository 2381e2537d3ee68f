//! Values that flow: through a pipeline, across its stage boundaries, in and out of it.

mod batch;
mod into_flow;
mod parcel;
mod reduce;
mod values;

pub use batch::MiniBatch;
pub use into_flow::IntoFlow;
pub use parcel::{Packer, Unpacker};
pub use reduce::{List, Mean, Sum};
pub use values::Replicate;

pub(crate) use batch::scatter;
pub(crate) use parcel::{Item, Parcel};

use crate::Result;

/// A value that can cross a stage boundary, be split into micro-batches and joined again.
///
/// Tensors, tuples, arrays, `Vec`, `Option`, numbers, `bool`, `String`, `Arc<T>` and [`Replicate`] flow. A value takes itself apart into
/// tensors and the rest, and is put together from them in the same order.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot cross a stage boundary or be kept for a later layer",
    label = "this value would have to be `Flow`",
    note = "tensors, tuples, arrays, `Vec`, `Option`, numbers, `bool`, `String`, `Arc<T>` and `Replicate<T>` are, and by `#[derive(Flow)]` structs of them"
)]
pub trait Flow: Sized + Send + 'static {
    /// Takes the value apart.
    fn pack(self, packer: &mut Packer);

    /// Puts a value together from what [`pack`](Flow::pack) made of one, in the same order.
    fn unpack(unpacker: &mut Unpacker) -> Self;

    /// A second handle on the same value: tensors share their memory and their gradients.
    fn share(&self) -> Self;

    /// The whole mini-batch's value, from those of its micro-batches (at least one). A single one is taken as it is; of several, tensors are joined along
    /// dimension 0 and plain values must agree, unless the type says otherwise ([`Sum`], [`Mean`], [`List`]).
    ///
    /// # Errors
    ///
    /// If the parts cannot be joined.
    fn join(parts: Vec<Self>, batch: &MiniBatch) -> Result<Self>;
}
