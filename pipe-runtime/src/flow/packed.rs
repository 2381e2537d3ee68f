use std::any::Any;
use std::sync::Arc;

use tch::Tensor;

use super::Flow;
use crate::torch::{Event, version};

/// A value in flat form, as it is passed between two stages: its tensors and its other parts.
#[derive(Debug, Default)]
pub(crate) struct PackedValue {
    pub(crate) tensors: Vec<PackedTensor>,
    pub(crate) plain: Vec<PackedPlain>,
    /// The event after which the value is complete, if it is computed on an accelerator.
    pub(crate) ready: Option<Arc<Event>>,
}

/// One tensor of a packed value.
#[derive(Debug)]
pub(crate) struct PackedTensor {
    pub(crate) tensor: Tensor,
    /// How it is divided among the micro-batches.
    pub(crate) split: Split,
    /// Whether the producer of the tensor needs its gradient.
    pub(crate) needs_gradient: bool,
    /// The version of the tensor (its count of in-place changes) when it was packed.
    pub(crate) version: u64,
}

/// How a tensor of a mini-batch is divided among its micro-batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Split {
    /// Along dimension `dim`, which has `per_row` consecutive indices for each row of the batch.
    Along {
        /// The dimension.
        dim: usize,
        /// The number of consecutive indices per row of the batch.
        per_row: usize,
    },
    /// Not divided: every micro-batch gets all of it ([`Replicate`](super::Replicate)).
    Whole,
    /// Not divided: it belongs to this row's entry in a [`Rows`](super::Rows), and goes to the
    /// micro-batch that has the row.
    Row(usize),
}

impl Split {
    /// Along dimension 0, with one index per row.
    pub(crate) const ROWS: Self = Self::Along { dim: 0, per_row: 1 };
}

/// A part of a packed value that is not a tensor.
#[derive(Clone, Debug)]
pub(crate) struct PackedPlain {
    pub(crate) value: Value,
    /// The row that it belongs to; `None` if every micro-batch gets it.
    pub(crate) row: Option<usize>,
}

/// The content of a [`PackedPlain`].
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// The number of values that follow, in a list whose type says how it is divided; 0 or 1 for an
    /// `Option`.
    Length(usize),
    /// The number of values that follow, in a list whose type does not say how it is divided.
    List(usize),
    /// The number of values that follow, in a list with one entry per row of the batch.
    Rows(usize),
    /// A plain value.
    Plain(Arc<dyn Any + Send + Sync>),
}

impl PackedTensor {
    /// Wraps `tensor`, a part of `whole`'s tensor, with the same division and gradient flag as
    /// `whole`.
    pub(crate) fn new(tensor: Tensor, whole: &Self) -> Self {
        let version = version(&tensor);
        Self { tensor, version, ..*whole }
    }

    pub(crate) fn share(&self) -> Self {
        Self { tensor: self.tensor.shallow_clone(), ..*self }
    }

    /// Whether an in-place operation has changed the tensor since it was packed.
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
        // A plain loop: `map` and `collect` would instantiate many more functions per user type.
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
    /// How the tensors packed next are divided.
    split: Split,
    /// Whether an enclosing type says how the lists packed next are divided.
    list_is_known: bool,
}

impl Packer {
    fn new() -> Self {
        Self { packed: PackedValue::default(), split: Split::ROWS, list_is_known: false }
    }

    /// Packs a tensor. At the pipeline's input, its dimension 0 must be the batch dimension.
    pub fn tensor(&mut self, tensor: Tensor) {
        self.tensor_along(tensor, 0, 1);
    }

    /// Packs a tensor whose dimension `dim` has `per_row` consecutive indices per row of the batch.
    pub(crate) fn tensor_along(&mut self, tensor: Tensor, dim: usize, per_row: usize) {
        let split = match self.split {
            Split::Along { .. } => Split::Along { dim, per_row },
            whole => whole,
        };
        let (needs_gradient, version) = (tensor.requires_grad(), version(&tensor));
        self.packed.tensors.push(PackedTensor { tensor, split, needs_gradient, version });
    }

    /// Packs the length of a list, before its entries, if the type does not fix it.
    ///
    /// At the pipeline's input and in targets, such a list is refused, because it is unknown how
    /// its entries belong to the rows of the batch. Pack it in [`Rows`](crate::Rows),
    /// [`Each`](crate::Each) or [`Replicate`](crate::Replicate), which say so.
    pub fn length(&mut self, length: usize) {
        self.push_plain(if self.list_is_known { Value::Length(length) } else { Value::List(length) });
    }

    /// Packs whether the value of an `Option` follows.
    pub(crate) fn is_some(&mut self, is_some: bool) {
        self.push_plain(Value::Length(usize::from(is_some)));
    }

    /// Packs a value without tensors. Every micro-batch gets it; inside an entry of `Rows`, it goes
    /// with its row.
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

    /// Packs with `pack`, and sends everything whole to every micro-batch; inside an entry of
    /// `Rows`, with its row.
    pub fn whole(&mut self, pack: impl FnOnce(&mut Self)) {
        let split = match self.split {
            Split::Along { .. } => Split::Whole,
            whole => whole,
        };
        self.within(split, pack);
    }

    /// Packs with `pack`. The entries of lists are divided as if they were not in a list.
    pub(crate) fn each(&mut self, pack: impl FnOnce(&mut Self)) {
        self.within(self.split, pack);
    }

    /// Packs a list with one entry per row of the batch.
    pub(crate) fn rows<T: Flow>(&mut self, entries: Vec<T>) {
        // Where rows are not divided (inside `Replicate`, or inside an entry of another list of
        // rows), this is an ordinary list.
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
/// The methods panic if `unpack` does not ask for the parts that `pack` added, which only a wrong
/// implementation of [`Flow`](super::Flow) can cause.
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
    /// Panics if the next part is not a tensor.
    pub fn tensor(&mut self) -> Tensor {
        self.tensors.next().expect("a tensor was packed here").tensor
    }

    /// Returns the next length.
    ///
    /// # Panics
    ///
    /// Panics if the next part is not a length.
    pub fn length(&mut self) -> usize {
        match self.plain.next() {
            Some(PackedPlain { value: Value::Length(length) | Value::List(length) | Value::Rows(length), .. }) => {
                length
            }
            other => panic!("a length was expected here, not {other:?}"),
        }
    }

    /// Returns the next plain value.
    ///
    /// # Panics
    ///
    /// Panics if the next part is not a plain value of this type.
    pub fn plain<T: Any + Clone>(&mut self) -> T {
        match self.plain.next() {
            Some(PackedPlain { value: Value::Plain(value), .. }) => {
                value.downcast_ref::<T>().expect("a value of another type was packed here").clone()
            }
            other => panic!("a plain value was expected here, not {other:?}"),
        }
    }
}
