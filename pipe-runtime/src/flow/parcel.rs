use std::any::Any;
use std::sync::Arc;

use tch::Tensor;

use super::Flow;
use crate::torch::{Event, version};

/// A value taken apart, as it lies between two stages.
#[derive(Debug, Default)]
pub(crate) struct Parcel {
    pub(crate) items: Vec<Item>,
    pub(crate) rest: Vec<Rest>,
    /// What marks the end of the work that makes it, if that is an accelerator's.
    pub(crate) ready: Option<Arc<Event>>,
}

/// One tensor of a parcel.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) tensor: Tensor,
    /// Handed whole to every micro-batch, never split ([`Replicate`](super::Replicate)).
    pub(crate) whole: bool,
    /// The one who made it wants its gradient.
    pub(crate) needs_gradient: bool,
    /// How often it had been changed in place when it was handed over.
    pub(crate) version: u64,
}

/// What is not a tensor.
#[derive(Clone, Debug)]
pub(crate) enum Rest {
    /// The length of a `Vec`; of an `Option`, 0 or 1.
    Length(usize),
    /// A plain value.
    Value(Arc<dyn Any + Send + Sync>),
}

impl Item {
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

impl Parcel {
    /// The parts of `value`.
    pub(crate) fn of(value: impl Flow) -> Self {
        let mut packer = Packer::new();
        value.pack(&mut packer);
        packer.parcel
    }

    /// The value again.
    pub(crate) fn open<T: Flow>(self) -> T {
        T::unpack(&mut Unpacker::new(self))
    }

    /// The values of several ones.
    pub(crate) fn open_all<T: Flow>(parcels: Vec<Self>) -> Vec<T> {
        // Not by `map` and `collect`, which are many functions more for each type of a user's.
        let mut values = Vec::with_capacity(parcels.len());
        for parcel in parcels {
            values.push(parcel.open());
        }
        values
    }

    pub(crate) fn share(&self) -> Self {
        Self { items: self.items.iter().map(Item::share).collect(), rest: self.rest.clone(), ready: self.ready.clone() }
    }
}

/// Collects the parts of a value, in order.
#[derive(Debug)]
pub struct Packer {
    parcel: Parcel,
    whole: bool,
}

impl Packer {
    fn new() -> Self {
        Self { parcel: Parcel::default(), whole: false }
    }

    /// A tensor.
    pub fn tensor(&mut self, tensor: Tensor) {
        let (needs_gradient, version) = (tensor.requires_grad(), version(&tensor));
        self.parcel.items.push(Item { tensor, whole: self.whole, needs_gradient, version });
    }

    /// How many values follow, where the type does not say.
    pub fn length(&mut self, length: usize) {
        self.parcel.rest.push(Rest::Length(length));
    }

    /// A value without tensors.
    pub fn plain<T: Any + Send + Sync>(&mut self, value: T) {
        self.parcel.rest.push(Rest::Value(Arc::new(value)));
    }

    /// Everything that `pack` adds goes whole to every micro-batch.
    pub fn whole(&mut self, pack: impl FnOnce(&mut Self)) {
        let before = std::mem::replace(&mut self.whole, true);
        pack(self);
        self.whole = before;
    }
}

/// Gives the parts of a value back, in order.
///
/// Its methods panic where the type that is put together is not the one that was taken apart, which only a wrong
/// implementation of [`Flow`](super::Flow) can cause.
#[derive(Debug)]
pub struct Unpacker {
    items: std::vec::IntoIter<Item>,
    rest: std::vec::IntoIter<Rest>,
}

impl Unpacker {
    fn new(parcel: Parcel) -> Self {
        Self { items: parcel.items.into_iter(), rest: parcel.rest.into_iter() }
    }

    /// The next tensor.
    pub fn tensor(&mut self) -> Tensor {
        self.items.next().expect("a tensor was packed here").tensor
    }

    /// The next length.
    pub fn length(&mut self) -> usize {
        match self.rest.next() {
            Some(Rest::Length(length)) => length,
            other => panic!("a length was expected here, not {other:?}"),
        }
    }

    /// The next plain value.
    pub fn plain<T: Any + Clone>(&mut self) -> T {
        match self.rest.next() {
            Some(Rest::Value(value)) => {
                value.downcast_ref::<T>().expect("a value of another type was packed here").clone()
            }
            other => panic!("a plain value was expected here, not {other:?}"),
        }
    }
}
