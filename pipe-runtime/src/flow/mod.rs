//! Values that flow into a pipeline, across its stage boundaries, and out of it.

/// Implements [`Flow`] for a tuple struct around one value. It delegates to that value, except for
/// packing and joining. `$parts` are the unwrapped values of the micro-batches.
macro_rules! wraps {
    (
        [$($generics:tt)*] $name:ty, $inner:ty,
        |$value:ident, $packer:ident| $pack:expr,
        |$parts:ident, $batch:ident| $join:expr $(,)?
    ) => {
        impl<$($generics)*> Portable for $name where $inner: Portable {}

        impl<$($generics)*> Flow for $name {
            const PORTABLE: bool = <$inner>::PORTABLE;

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
pub(crate) use packed::{
    CHANGED_ON_ITS_WAY, ONE_OF_TWO_CHANGED, PackedPlain, PackedTensor, PackedValue, Split, Value, mark_shared,
};
pub(crate) use sources::Sources;

use crate::error::Result;

/// A value that can cross a stage boundary, and can be split into micro-batches and joined again.
///
/// Tensors, tuples, arrays, `Vec`, `Option`, numbers, `bool`, `char`, `String` and `Arc<T>`
/// implement it. So do the wrappers that define how a value relates to the rows of the batch:
/// [`Replicate`], [`Along`], [`PerRow`], [`Rows`] and [`Each`]. An implementation packs the value's
/// tensors and its other parts, and unpacks them in the same order.
///
/// At the pipeline's input and in targets, tensors are split along dimension 0, and all must have
/// the same number of rows. A `Vec` outside of a wrapper is an error there, because it does not
/// define how its values relate to the rows.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot cross a stage boundary or be kept for a later layer",
    label = "this value would have to be `Flow`",
    note = "tensors, tuples, arrays, `Vec`, `Option`, numbers, `bool`, `String`, `Arc<T>`, `Replicate`, `Along`, `PerRow`, `Rows` and `Each` are, and by `#[derive(Flow)]` structs of them"
)]
pub trait Flow: Sized + Send + 'static {
    /// Whether all values of the type can go to another process, as [`Portable`] says: building a
    /// pipeline whose stages are in several processes is an error if one of them sends another
    /// value to the next. The default is `true`.
    const PORTABLE: bool = true;

    /// Packs the parts of the value.
    fn pack(self, packer: &mut Packer);

    /// Rebuilds a value from the parts that [`pack`](Flow::pack) packed, in the same order.
    fn unpack(unpacker: &mut Unpacker) -> Self;

    /// Creates a second handle to the same value. Its tensors share their memory and their
    /// gradients with this one's.
    fn share(&self) -> Self;

    /// Joins the values of the micro-batches (at least one) into that of the mini-batch. A single
    /// value is returned unchanged. Of several, tensors are concatenated along dimension 0 and
    /// plain values must be equal, unless the type defines something else ([`Sum`], [`Mean`],
    /// [`List`]).
    ///
    /// # Errors
    ///
    /// [`Error::Output`](crate::Error::Output) if the parts cannot be joined, for example because
    /// plain values differ; [`Error::Tch`](crate::Error::Tch) if the shapes of tensors do not fit.
    fn join(parts: Vec<Self>, batch: &MiniBatch) -> Result<Self>;
}

/// Whether all values of a type can go to another process. Unlike `<T as Flow>::PORTABLE`, it can
/// be asked of any type that a user writes: some do not end before `as`.
pub const fn is_portable<T: Flow>() -> bool {
    T::PORTABLE
}

/// A value that can go to a stage in another process: tensors, numbers, `bool`, `char`, `String`,
/// and what is made of them. `Arc<T>` is not, since `T` may be anything. `#[derive(Flow)]` makes a
/// struct portable whose fields are.
///
/// The annotated processes tell which values leave theirs; a value that cannot is a compile error.
/// Who implements [`Flow`] by hand implements this too if the value is packed as such values. If it
/// is not, [`Flow::PORTABLE`] is `false`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot go to another process",
    label = "this value would have to be `Portable`",
    note = "tensors, numbers, `bool`, `char`, `String`, tuples, arrays, `Vec`, `Option` and the wrappers of them are, and by `#[derive(Flow)]` structs of them; `Arc<T>` is not: put both layers into one process, or send what the value is made of"
)]
pub trait Portable: Flow {}
