use std::any::Any;
use std::sync::Arc;

use tch::Tensor;

use super::Flow;
use crate::torch::{Event, version};

/// A packed value: its tensors and its other parts, as they lie between two stages.
#[derive(Debug, Default)]
pub(crate) struct PackedValue {
    pub(crate) tensors: Vec<PackedTensor>,
    pub(crate) plain: Vec<PackedPlain>,
    /// What marks the end of the work that makes it, if that is an accelerator's.
    pub(crate) ready: Option<Arc<Event>>,
}

/// One tensor of a packed value.
#[derive(Debug)]
pub(crate) struct PackedTensor {
    pub(crate) tensor: Tensor,
    /// What part of it each micro-batch gets.
    pub(crate) split: Split,
    /// Whether its maker wants its gradient.
    pub(crate) needs_gradient: bool,
    /// How often it had been changed in place when it was handed over.
    pub(crate) version: u64,
}

/// How a tensor of a mini-batch is divided among its micro-batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Split {
    /// Along a dimension, which has `per_row` consecutive indices for each row of the batch.
    Along {
        /// The dimension.
        dim: usize,
        /// How many indices belong to a row.
        per_row: usize,
    },
    /// Not: every micro-batch gets all of it ([`Replicate`](super::Replicate)).
    Whole,
    /// Not: it goes with this row, to whose entry in a [`Rows`](super::Rows) it belongs.
    Row(usize),
}

impl Split {
    /// Along dimension 0, one index for each row.
    pub(crate) const ROWS: Self = Self::Along { dim: 0, per_row: 1 };
}

/// A part of a packed value that is not a tensor.
#[derive(Clone, Debug)]
pub(crate) struct PackedPlain {
    pub(crate) value: Value,
    /// The row with which it goes, if not to every micro-batch.
    pub(crate) row: Option<usize>,
}

/// The content of a [`PackedPlain`].
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// How many values follow; of an `Option`, 0 or 1.
    Length(usize),
    /// How many values follow in a list that does not say how it is split.
    List(usize),
    /// How many values follow in a list that has one for each row of the batch.
    Rows(usize),
    /// A plain value.
    Plain(Arc<dyn Any + Send + Sync>),
}

impl PackedTensor {
    /// Part of a value, made of `tensor` as the whole is made of `whole`'s.
    pub(crate) fn new(tensor: Tensor, whole: &Self) -> Self {
        let version = version(&tensor);
        Self { tensor, version, ..*whole }
    }

    pub(crate) fn share(&self) -> Self {
        Self { tensor: self.tensor.shallow_clone(), ..*self }
    }

    /// Whether an in-place operation has changed it since it was handed over.
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

    /// Makes the value again.
    pub(crate) fn unpack<T: Flow>(self) -> T {
        T::unpack(&mut Unpacker::new(self))
    }

    /// Makes the values of several packed ones.
    pub(crate) fn unpack_all<T: Flow>(packed: Vec<Self>) -> Vec<T> {
        // Not by `map` and `collect`, which are many functions more for each type of a user's.
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
    /// How the tensors to come are split.
    split: Split,
    /// Whether a list to come is part of something that says how it is split.
    list_is_known: bool,
}

impl Packer {
    fn new() -> Self {
        Self { packed: PackedValue::default(), split: Split::ROWS, list_is_known: false }
    }

    /// A tensor: at the pipeline's input, it has a row (dimension 0) for each row of the batch.
    pub fn tensor(&mut self, tensor: Tensor) {
        self.tensor_along(tensor, 0, 1);
    }

    /// A tensor with `per_row` consecutive indices of dimension `dim` for each row of the batch.
    pub(crate) fn tensor_along(&mut self, tensor: Tensor, dim: usize, per_row: usize) {
        let split = match self.split {
            Split::Along { .. } => Split::Along { dim, per_row },
            whole => whole,
        };
        let (needs_gradient, version) = (tensor.requires_grad(), version(&tensor));
        self.packed.tensors.push(PackedTensor { tensor, split, needs_gradient, version });
    }

    /// How many values follow in a list, where the type does not say.
    ///
    /// At the pipeline's input and in targets, such a list is refused, because nobody knows how
    /// it belongs to the rows of the batch: pack it in [`Rows`](crate::Rows),
    /// [`Each`](crate::Each) or [`Replicate`](crate::Replicate), which say so.
    pub fn length(&mut self, length: usize) {
        self.push_plain(if self.list_is_known { Value::Length(length) } else { Value::List(length) });
    }

    /// Whether the value of an `Option` follows.
    pub(crate) fn is_some(&mut self, is_some: bool) {
        self.push_plain(Value::Length(usize::from(is_some)));
    }

    /// A value without tensors: every micro-batch gets it.
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

    /// Everything that `pack` adds goes whole to every micro-batch.
    pub fn whole(&mut self, pack: impl FnOnce(&mut Self)) {
        let split = match self.split {
            Split::Along { .. } => Split::Whole,
            whole => whole,
        };
        self.within(split, pack);
    }

    /// The parts of each list that `pack` adds are split as they would be outside of it.
    pub(crate) fn each(&mut self, pack: impl FnOnce(&mut Self)) {
        self.within(self.split, pack);
    }

    /// A list that has an entry for each row of the batch.
    pub(crate) fn rows<T: Flow>(&mut self, entries: Vec<T>) {
        // Where no rows are split, as inside `Replicate` or an entry of another list of rows, it
        // is a list as any other.
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

/// Gives the parts of a value back, in order.
///
/// Its methods panic where the type that is put together is not the one that was taken apart, which
/// only a wrong implementation of [`Flow`](super::Flow) can cause.
#[derive(Debug)]
pub struct Unpacker {
    tensors: std::vec::IntoIter<PackedTensor>,
    plain: std::vec::IntoIter<PackedPlain>,
}

impl Unpacker {
    fn new(value: PackedValue) -> Self {
        Self { tensors: value.tensors.into_iter(), plain: value.plain.into_iter() }
    }

    /// The next tensor.
    pub fn tensor(&mut self) -> Tensor {
        self.tensors.next().expect("a tensor was packed here").tensor
    }

    /// The next length.
    pub fn length(&mut self) -> usize {
        match self.plain.next() {
            Some(PackedPlain { value: Value::Length(length) | Value::List(length) | Value::Rows(length), .. }) => {
                length
            }
            other => panic!("a length was expected here, not {other:?}"),
        }
    }

    /// The next plain value.
    pub fn plain<T: Any + Clone>(&mut self) -> T {
        match self.plain.next() {
            Some(PackedPlain { value: Value::Plain(value), .. }) => {
                value.downcast_ref::<T>().expect("a value of another type was packed here").clone()
            }
            other => panic!("a plain value was expected here, not {other:?}"),
        }
    }
}
