use std::any::Any;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::Flow;
use crate::torch::{Event, memory_of, version};

/// A packed value: its tensors and its other parts, in the form in which it is passed between
/// stages.
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
    /// Whether its producer needs its gradient.
    pub(crate) needs_gradient: bool,
    /// Its version counter (the number of in-place changes) when it was handed over.
    pub(crate) version: u64,
    /// Whether another tensor of its sender shares its memory. In an unpipelined run, a change in
    /// place would be one of both.
    pub(crate) is_shared: bool,
}

/// How a tensor of a mini-batch is divided among its micro-batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Split {
    /// Divided along one dimension, with `per_row` consecutive indices for each row of the batch.
    Along {
        /// The dimension.
        dim: usize,
        /// The number of consecutive indices that belong to one row.
        per_row: usize,
    },
    /// Not divided: every micro-batch gets all of it ([`Replicate`](super::Replicate)).
    Whole,
    /// Not divided: it is part of the entry for this row in a [`Rows`](super::Rows), so it goes to
    /// the micro-batch of the row.
    Row(usize),
}

impl Split {
    /// A split along dimension 0, with one index for each row.
    pub(crate) const ROWS: Self = Self::Along { dim: 0, per_row: 1 };
}

/// A part of a packed value that is not a tensor.
#[derive(Clone, Debug)]
pub(crate) struct PackedPlain {
    pub(crate) value: Value,
    /// The row whose micro-batch gets it; `None` if every micro-batch does.
    pub(crate) row: Option<usize>,
}

/// The content of a [`PackedPlain`].
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// The number of values that follow; 0 or 1 for an `Option`.
    Length(usize),
    /// The number of values that follow, in a list whose type does not define how it is split.
    List(usize),
    /// The number of values that follow, in a list with one value for each row of the batch.
    Rows(usize),
    /// A plain value, and the name of its type.
    Plain(Arc<dyn Any + Send + Sync>, &'static str),
}

impl PackedTensor {
    /// Wraps `tensor`, a part of `whole`'s tensor, with the same split and gradient flag as
    /// `whole`.
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

/// Says that a value was changed between two stages.
pub(crate) const CHANGED_ON_ITS_WAY: &str = "a value on its way to another stage was modified by an in-place operation of a layer that shares its memory: let that layer work on a copy";

/// Says that one of two values that share memory was changed, or changed on its way past a layer
/// that is recomputed.
pub(crate) const ONE_OF_TWO_CHANGED: &str = "an in-place operation of a layer modified a value that shares its memory with another one, such as a skip that is the same tensor, and \
     the other one left its stage, or its recomputed layer, before: its gradient would miss the operation. Let that layer work on a copy, or keep both in one stage and \
     remove `#[recompute]` from the layers between them";

/// Marks the tensors that share memory with another one of them, or with one of `others`.
pub(crate) fn mark_shared<'t>(tensors: impl Iterator<Item = &'t mut PackedTensor>, others: &[Tensor]) {
    let others = others.iter().filter_map(|tensor| Some((Place::of(tensor)?, None)));
    let tensors = tensors.filter_map(|item| Some((Place::of(&item.tensor)?, Some(item))));
    let mut places: Vec<(Place, Option<&mut PackedTensor>)> = others.chain(tensors).collect();
    places.sort_by_key(|(place, _)| (place.memory, place.first));
    for index in 0..places.len() {
        let (before, after) = places.split_at_mut(index + 1);
        let (place, item) = &mut before[index];
        let near = after.iter_mut().take_while(|(other, _)| other.memory == place.memory && other.first <= place.last);
        for (_, other) in near.filter(|(other, _)| place.overlaps(other)) {
            for item in [&mut *item, other].into_iter().flatten() {
                item.is_shared = true;
            }
        }
    }
}

/// Where the elements of a tensor are.
struct Place {
    /// The number of the memory.
    memory: u64,
    /// The numbers of the first and the last element in it.
    first: i64,
    last: i64,
    /// The stride and the number of indices of each dimension that moves.
    dims: Vec<(i64, i64)>,
}

impl Place {
    /// `None` if the tensor has no elements in memory.
    fn of(tensor: &Tensor) -> Option<Self> {
        let (memory, first) = memory_of(tensor)?;
        let size = tensor.size();
        // Where there are no elements, any sizes and strides go.
        if size.contains(&0) {
            return None;
        }
        let moves = |&(stride, size): &(i64, i64)| stride != 0 && size != 1;
        let dims: Vec<_> = tensor.stride().into_iter().zip(size.iter().copied()).filter(moves).collect();
        let last = first + dims.iter().map(|(stride, size)| stride * (size - 1)).sum::<i64>();
        Some(Self { memory, first, last, dims })
    }

    /// Whether an element is in both, which are in the same memory. Views that no dimension of one
    /// tensor explains count as if they overlapped.
    fn overlaps(&self, other: &Self) -> bool {
        let mut strides: Vec<i64> = self.dims.iter().chain(&other.dims).map(|(stride, _)| *stride).collect();
        strides.sort_unstable_by_key(|stride| -stride);
        strides.dedup();
        let sizes = |place: &Self, stride: i64| -> i64 {
            let along = place.dims.iter().filter(|(of, _)| *of == stride).map(|(_, size)| size - 1);
            1 + along.sum::<i64>()
        };
        let dims: Vec<[i64; 3]> =
            strides.into_iter().map(|stride| [stride, sizes(self, stride), sizes(other, stride)]).collect();
        let is_nested = (0..dims.len()).all(|index| {
            let inside = |of: usize| dims[index + 1..].iter().map(|dim| dim[0] * (dim[of] - 1)).sum::<i64>();
            inside(1).max(inside(2)) < dims[index][0]
        });
        !is_nested || differ_by(other.first - self.first, &dims)
    }
}

/// Whether there are two elements that are `distance` apart. `dims` has each stride with the number
/// of indices of the two tensors, where no dimension reaches past the next index of a larger one.
fn differ_by(distance: i64, dims: &[[i64; 3]]) -> bool {
    let [[stride, size, other], inside @ ..] = dims else { return distance == 0 };
    let near = distance.div_euclid(*stride);
    // What is left for the other dimensions lies on either side.
    let counts = [near, near + 1].into_iter().filter(|count| (1 - other..*size).contains(count));
    counts.into_iter().any(|count| differ_by(distance - count * stride, inside))
}

impl PackedValue {
    /// Whether an in-place operation has changed a tensor of it since it was packed.
    pub(crate) fn is_changed(&self) -> bool {
        self.tensors.iter().any(PackedTensor::is_changed)
    }

    /// Packs `value`.
    pub(crate) fn of(value: impl Flow) -> Self {
        let mut packer = Packer::new();
        value.pack(&mut packer);
        packer.packed
    }

    /// Rebuilds the value.
    pub(crate) fn unpack<T: Flow>(self) -> T {
        T::unpack(&mut Unpacker::new(self))
    }

    /// Rebuilds several values.
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

/// Collects the parts of a value in the order in which they are packed.
#[derive(Debug)]
pub struct Packer {
    packed: PackedValue,
    /// How the tensors that are packed next are split.
    split: Split,
    /// Whether the lists that are packed next are inside a wrapper that defines how they are split.
    list_is_known: bool,
}

impl Packer {
    fn new() -> Self {
        Self { packed: PackedValue::default(), split: Split::ROWS, list_is_known: false }
    }

    /// Adds a tensor. At the pipeline's input, it must have one index of dimension 0 for each row
    /// of the batch.
    pub fn tensor(&mut self, tensor: Tensor) {
        self.tensor_along(tensor, 0, 1);
    }

    /// Adds a tensor with `per_row` consecutive indices of dimension `dim` for each row of the
    /// batch.
    pub(crate) fn tensor_along(&mut self, tensor: Tensor, dim: usize, per_row: usize) {
        let split = match self.split {
            Split::Along { .. } => Split::Along { dim, per_row },
            whole => whole,
        };
        let (needs_gradient, version) = (tensor.requires_grad(), version(&tensor));
        self.packed.tensors.push(PackedTensor { tensor, split, needs_gradient, version, is_shared: false });
    }

    /// Adds the number of values that follow, for a list whose length is not part of its type.
    ///
    /// At the pipeline's input and in targets, such a list is an error, because it does not define
    /// how its values relate to the rows of the batch. There, the list must be packed inside
    /// [`Rows`](crate::Rows), [`Each`](crate::Each) or [`Replicate`](crate::Replicate), which do.
    pub fn length(&mut self, length: usize) {
        self.push_plain(if self.list_is_known { Value::Length(length) } else { Value::List(length) });
    }

    /// Adds whether the value of an `Option` follows.
    pub(crate) fn is_some(&mut self, is_some: bool) {
        self.push_plain(Value::Length(usize::from(is_some)));
    }

    /// Adds a value without tensors, which every micro-batch gets.
    pub fn plain<T: Any + Send + Sync>(&mut self, value: T) {
        self.push_plain(Value::Plain(Arc::new(value), std::any::type_name::<T>()));
    }

    fn push_plain(&mut self, value: Value) {
        let row = match self.split {
            Split::Row(row) => Some(row),
            Split::Along { .. } | Split::Whole => None,
        };
        self.packed.plain.push(PackedPlain { value, row });
    }

    /// Calls `pack`; everything that it adds goes to every micro-batch undivided.
    pub fn whole(&mut self, pack: impl FnOnce(&mut Self)) {
        let split = match self.split {
            Split::Along { .. } => Split::Whole,
            whole => whole,
        };
        self.within(split, pack);
    }

    /// Calls `pack`; the parts of each list that it adds are split as they would be outside of the
    /// list.
    pub(crate) fn each(&mut self, pack: impl FnOnce(&mut Self)) {
        self.within(self.split, pack);
    }

    /// Adds a list with one entry for each row of the batch.
    pub(crate) fn rows<T: Flow>(&mut self, entries: Vec<T>) {
        // Inside `Replicate` or an entry of another list of rows, no rows are split, so the list is
        // packed like any other.
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

/// Returns the parts of a value, in the order in which they were packed.
///
/// Its methods panic if the part asked for is not the part that was packed at this position. Only
/// an incorrect implementation of [`Flow`](super::Flow) can cause that.
#[derive(Debug)]
pub struct Unpacker {
    tensors: std::vec::IntoIter<PackedTensor>,
    plain: std::vec::IntoIter<PackedPlain>,
}

impl Unpacker {
    fn new(value: PackedValue) -> Self {
        Self { tensors: value.tensors.into_iter(), plain: value.plain.into_iter() }
    }

    /// Takes the next tensor.
    ///
    /// # Panics
    ///
    /// If no tensor is left.
    pub fn tensor(&mut self) -> Tensor {
        self.tensors.next().expect("a tensor was packed here").tensor
    }

    /// Takes the next length.
    ///
    /// # Panics
    ///
    /// If the next part that is not a tensor is not a length, or if there is none.
    pub fn length(&mut self) -> usize {
        match self.plain.next() {
            Some(PackedPlain { value: Value::Length(length) | Value::List(length) | Value::Rows(length), .. }) => {
                length
            }
            other => panic!("a length was expected here, not {other:?}"),
        }
    }

    /// The number of parts that have not been taken.
    pub(crate) fn left(&self) -> usize {
        self.tensors.len() + self.plain.len()
    }

    /// Takes the next plain value.
    ///
    /// # Panics
    ///
    /// If the next part that is not a tensor is not a plain value of type `T`, or if there is none.
    pub fn plain<T: Any + Clone>(&mut self) -> T {
        match self.plain.next() {
            Some(PackedPlain { value: Value::Plain(value, _), .. }) => {
                value.downcast_ref::<T>().expect("a value of another type was packed here").clone()
            }
            other => panic!("a plain value was expected here, not {other:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_that_share_memory_are_marked() {
        let base = Tensor::from_slice(&[1., 2., 3., 4., 5., 6.]);
        let part = |start, length| base.narrow(0, start, length);
        let shared = |tensors: Vec<Tensor>, others: &[Tensor]| {
            let mut value = PackedValue::of(tensors);
            mark_shared(value.tensors.iter_mut(), others);
            value.tensors.iter().map(|item| item.is_shared).collect::<Vec<_>>()
        };
        assert_eq!(shared(vec![base.shallow_clone(), base.copy(), base.detach()], &[]), [true, false, true]);
        assert_eq!(shared(vec![part(3, 3), part(0, 3)], &[]), [false, false]);
        assert_eq!(shared(vec![part(0, 1), base.view([2, 3]), part(5, 1), part(2, 1)], &[]), [true; 4]);
        assert_eq!(shared(vec![part(0, 2), part(1, 2)], &[]), [true, true]);
        assert_eq!(shared(vec![part(0, 2), part(4, 2)], &[part(1, 2)]), [true, false]);
        // Columns of a matrix lie between each other.
        let matrix = base.view([2, 3]);
        let columns = |start, length| matrix.narrow(1, start, length);
        assert_eq!(shared(vec![columns(0, 1), columns(1, 2)], &[]), [false, false]);
        assert_eq!(shared(vec![columns(0, 2), columns(1, 2)], &[]), [true, true]);
        assert_eq!(shared(vec![matrix.select(1, 0), matrix.select(1, 2)], &[]), [false, false]);
        assert_eq!(shared(vec![matrix.select(1, 1), matrix.select(0, 0)], &[]), [true, true]);
        assert_eq!(shared(vec![matrix.tr(), matrix.shallow_clone()], &[]), [true, true]);
        assert_eq!(shared(vec![matrix.narrow(0, 0, 1), matrix.narrow(0, 1, 1)], &[]), [false, false]);
        assert_eq!(shared(vec![part(0, 0), part(0, 1), base.to_sparse(None, None::<i64>, None)], &[]), [false; 3]);
        let empty = base.as_strided([0, i64::MAX, 2], [1, 2, i64::MAX], 0);
        assert_eq!(shared(vec![empty, part(0, 1)], &[]), [false; 2]);
    }

    #[test]
    fn views_overlap_if_an_element_is_in_both() {
        let base = Tensor::arange(24, (tch::Kind::Int64, tch::Device::Cpu)).view([2, 3, 4]);
        let mut views = vec![base.shallow_clone(), base.permute([2, 0, 1]), base.view([4, 6]), base.view([24])];
        for (dim, size) in [(0, 2), (1, 3), (2, 4)] {
            for start in 0..size {
                views.push(base.select(dim, start));
                views.extend((1..=size - start).map(|length| base.narrow(dim, start, length)));
                views.push(base.slice(dim, start, size, 2));
            }
        }
        views.extend([views[5].narrow(-1, 0, 1), base.narrow(1, 1, 2).narrow(2, 2, 2), base.view([4, 6]).tr()]);
        let elements = |view: &Tensor| Vec::<i64>::try_from(view.contiguous().view([-1])).unwrap();
        for a in &views {
            for b in &views {
                let (in_a, in_b) = (elements(a), elements(b));
                let overlap = in_a.iter().any(|element| in_b.contains(element));
                let (a, b) = (Place::of(a).unwrap(), Place::of(b).unwrap());
                let found = a.overlaps(&b);
                assert!(found || !overlap, "{:?} {:?}", a.dims, b.dims);
                // Views of other shapes may be said to overlap.
                let alike = |place: &Place| place.dims.iter().all(|(stride, _)| [12, 4, 1].contains(stride));
                assert!(found == overlap || !alike(&a) || !alike(&b), "{:?} {:?}", a.dims, b.dims);
            }
        }
    }
}
