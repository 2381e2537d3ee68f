use std::any::Any;
use std::sync::Arc;

use tch::Tensor;

use super::Flow;
use crate::torch::{Event, version};

/// A packed value: its tensors and its other parts, in the form in which stages exchange them.
#[derive(Debug, Default)]
pub(crate) struct PackedValue {
    pub(crate) tensors: Vec<PackedTensor>,
    pub(crate) plain: Vec<PackedPlain>,
    /// Marks the end of the work that computes the value, if an accelerator does that.
    pub(crate) ready: Option<Arc<Event>>,
}

/// One tensor of a packed value.
#[derive(Debug)]
pub(crate) struct PackedTensor {
    pub(crate) tensor: Tensor,
    /// The part of it that each micro-batch gets.
    pub(crate) split: Split,
    /// Whether the producer needs its gradient.
    pub(crate) needs_gradient: bool,
    /// The tensor's version, which counts in-place changes, when it was packed.
    pub(crate) version: u64,
}

/// How a tensor of a mini-batch is divided among its micro-batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Split {
    /// Split along a dimension, with `per_row` consecutive indices for each row of the batch.
    Along {
        /// The dimension.
        dim: usize,
        /// The number of indices per row.
        per_row: usize,
    },
    /// Not split: every micro-batch gets all of it ([`Replicate`](super::Replicate)).
    Whole,
    /// Not split: it belongs to the entry of this row in a [`Rows`](super::Rows), and goes to that
    /// row's micro-batch.
    Row(usize),
}

impl Split {
    /// Split along dimension 0, with one index for each row.
    pub(crate) const ROWS: Self = Self::Along { dim: 0, per_row: 1 };
}

/// A part of a packed value that is not a tensor.
#[derive(Clone, Debug)]
pub(crate) struct PackedPlain {
    pub(crate) value: Value,
    /// The row whose micro-batch it goes to. `None` if it goes to every micro-batch.
    pub(crate) row: Option<usize>,
}

/// The content of a [`PackedPlain`].
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// The number of values that follow. For an `Option`, 0 or 1.
    Length(usize),
    /// The number of values that follow, in a list that does not say how it is split.
    List(usize),
    /// The number of values that follow, in a list that has one for each row of the batch.
    Rows(usize),
    /// A plain value.
    Plain(Arc<dyn Any + Send + Sync>),
}

impl PackedTensor {
    /// The part `tensor` of `whole`, with the same split and the same need of a gradient.
    pub(crate) fn new(tensor: Tensor, whole: &Self) -> Self {
        let version = version(&tensor);
        Self { tensor, version, ..*whole }
    }

    pub(crate) fn share(&self) -> Self {
        Self { tensor: self.tensor.shallow_clone(), ..*self }
    }

    /// Whether an in-place operation has changed it since it was packed.
    pub(crate) fn is_changed(&self) -> bool {
        version(&self.tensor) != self.version
    }
}

impl PackedValue {
    /// Packs `value`.
    pub(crate) fn of(value: impl Flow) -> Self {
        let mut packer = Packer::new();
        value.pack(&mut packer);
        packer.packed
    }

    /// Unpacks the value.
    pub(crate) fn unpack<T: Flow>(self) -> T {
        T::unpack(&mut Unpacker::new(self))
    }

    /// Unpacks several values.
    pub(crate) fn unpack_all<T: Flow>(packed: Vec<Self>) -> Vec<T> {
        // A loop, because `map` and `collect` would generate many more functions for each user
        // type.
        let mut values = Vec::with_capacity(packed.len());
        for value in packed {
            values.push(value.unpack());
        }
        values
    }

    pub(crate) fn share(&self) -> Self {
        let tensors = self.tensors.iter().map(PackedTensor::share).collect();
        Self { tensors, plain: self.plain.clone(), ready: self.ready.clone() }
    }
}

/// Collects the parts of a value, in order.
#[derive(Debug)]
pub struct Packer {
    packed: PackedValue,
    /// The split of the tensors that are packed next.
    split: Split,
    /// Whether a list that is packed next is inside a value that says how it is split.
    list_is_known: bool,
}

impl Packer {
    fn new() -> Self {
        Self { packed: PackedValue::default(), split: Split::ROWS, list_is_known: false }
    }

    /// Packs a tensor. At the pipeline's input, it is `[rows, ..]`: dimension 0 has one index for
    /// each row of the batch.
    pub fn tensor(&mut self, tensor: Tensor) {
        self.tensor_along(tensor, 0, 1);
    }

    /// Packs a tensor with `per_row` consecutive indices of dimension `dim` for each row of the
    /// batch.
    pub(crate) fn tensor_along(&mut self, tensor: Tensor, dim: usize, per_row: usize) {
        let split = match self.split {
            Split::Along { .. } => Split::Along { dim, per_row },
            whole => whole,
        };
        let (needs_gradient, version) = (tensor.requires_grad(), version(&tensor));
        self.packed.tensors.push(PackedTensor { tensor, split, needs_gradient, version });
    }

    /// Packs the number of values in a list whose type does not fix it. The values follow.
    ///
    /// At the pipeline's input and in targets, such a list is refused, because it does not say how
    /// it relates to the rows of the batch. Pack it in a [`Rows`](crate::Rows),
    /// [`Each`](crate::Each) or [`Replicate`](crate::Replicate), which do.
    pub fn length(&mut self, length: usize) {
        self.push_plain(if self.list_is_known { Value::Length(length) } else { Value::List(length) });
    }

    /// Packs whether the value of an `Option` follows.
    pub(crate) fn is_some(&mut self, is_some: bool) {
        self.push_plain(Value::Length(usize::from(is_some)));
    }

    /// Packs a value without tensors. Every micro-batch gets it.
    pub fn plain<T: Any + Send + Sync>(&mut self, value: T) {
        self.push_plain(Value::Plain(Arc::new(value)));
    }

    fn push_plain(&mut self, value: Value) {
        let row = match self.split {
            Split::Row(row) => Some(row),
            Split::Along { .. } | Split::Whole => None,
        };
        self.packed.plain.push(PackedPlain { value, row });
    }

    /// Runs `pack`. Every micro-batch gets the whole of everything that it packs.
    pub fn whole(&mut self, pack: impl FnOnce(&mut Self)) {
        let split = match self.split {
            Split::Along { .. } => Split::Whole,
            whole => whole,
        };
        self.within(split, pack);
    }

    /// Runs `pack`. The elements of each list that it packs are split as they would be outside the
    /// list.
    pub(crate) fn each(&mut self, pack: impl FnOnce(&mut Self)) {
        self.within(self.split, pack);
    }

    /// Packs a list that has one entry for each row of the batch.
    pub(crate) fn rows<T: Flow>(&mut self, entries: Vec<T>) {
        // Inside a `Replicate` or an entry of another list of rows, rows are not split, so this is
        // an ordinary list.
        let splits = matches!(self.split, Split::Along { .. });
        self.push_plain(if splits { Value::Rows(entries.len()) } else { Value::Length(entries.len()) });
        for (row, entry) in entries.into_iter().enumerate() {
            self.within(if splits { Split::Row(row) } else { self.split }, |packer| entry.pack(packer));
        }
    }

    fn within(&mut self, split: Split, pack: impl FnOnce(&mut Self)) {
        let before = (self.split, self.list_is_known);
        (self.split, self.list_is_known) = (split, true);
        pack(self);
        (self.split, self.list_is_known) = before;
    }
}

/// Returns the parts of a packed value, in order.
///
/// Its methods panic if the next part is not of the requested sort. Only an implementation of
/// [`Flow`](super::Flow) that unpacks other parts than it packs can cause that.
#[derive(Debug)]
pub struct Unpacker {
    tensors: std::vec::IntoIter<PackedTensor>,
    plain: std::vec::IntoIter<PackedPlain>,
}

impl Unpacker {
    fn new(value: PackedValue) -> Self {
        Self { tensors: value.tensors.into_iter(), plain: value.plain.into_iter() }
    }

    /// Returns the next tensor.
    ///
    /// # Panics
    ///
    /// Panics if all tensors have been returned.
    pub fn tensor(&mut self) -> Tensor {
        self.tensors.next().expect("a tensor was packed here").tensor
    }

    /// Returns the next length, as [`Packer::length`] packed it.
    ///
    /// # Panics
    ///
    /// Panics if the next part that is not a tensor is not a length.
    pub fn length(&mut self) -> usize {
        match self.plain.next() {
            Some(PackedPlain { value: Value::Length(length) | Value::List(length) | Value::Rows(length), .. }) => {
                length
            }
            other => panic!("a length was expected here, not {other:?}"),
        }
    }

    /// Returns the next plain value, as [`Packer::plain`] packed it.
    ///
    /// # Panics
    ///
    /// Panics if the next part that is not a tensor is not a plain value, or is of another type.
    pub fn plain<T: Any + Clone>(&mut self) -> T {
        match self.plain.next() {
            Some(PackedPlain { value: Value::Plain(value), .. }) => {
                value.downcast_ref::<T>().expect("a value of another type was packed here").clone()
            }
            other => panic!("a plain value was expected here, not {other:?}"),
        }
    }
}
