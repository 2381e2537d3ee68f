//! Values that layers add up on their way through the model: `#[sum(balance)]`.

use tch::Tensor;

use crate::flow::{Mean, Sum};

/// The sums so far, by number. There is none where no layer has added anything.
#[doc(hidden)]
pub type Sums<const COUNT: usize> = [Option<Tensor>; COUNT];

/// A sum that a layer adds to: its number, and its name.
type Name = (usize, &'static str);

/// What a layer with `#[sum(..)]` returns: a tuple of its output and a tensor for each of `COUNT`
/// names.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "this layer adds to {COUNT} of the sums and returns `{Self}`",
    label = "a layer that adds returns a tuple: its output, then a tensor for each name in the order of `#[sum(..)]`",
    note = "what is added is a `Tensor`: a number is made one by `Tensor::from(..)`",
    note = "a block hands on what its own layers add up: `#[pipeline(sum(balance: Tensor))]`"
)]
pub trait Adding<const COUNT: usize> {
    type Output;

    fn parts(self) -> (Self::Output, [Tensor; COUNT]);
}

macro_rules! adding {
    ($count:literal: $($value:ident: $tensor:ident)+) => {
        #[diagnostic::do_not_recommend]
        impl<Output> Adding<$count> for (Output, $($tensor),+) {
            type Output = Output;

            fn parts(self) -> (Output, [Tensor; $count]) {
                let (output, $($value),+) = self;
                (output, [$($value),+])
            }
        }
    };
}

adding!(1: a: Tensor);
adding!(2: a: Tensor b: Tensor);
adding!(3: a: Tensor b: Tensor c: Tensor);
adding!(4: a: Tensor b: Tensor c: Tensor d: Tensor);
adding!(5: a: Tensor b: Tensor c: Tensor d: Tensor e: Tensor);
adding!(6: a: Tensor b: Tensor c: Tensor d: Tensor e: Tensor f: Tensor);
adding!(7: a: Tensor b: Tensor c: Tensor d: Tensor e: Tensor f: Tensor g: Tensor);
adding!(8: a: Tensor b: Tensor c: Tensor d: Tensor e: Tensor f: Tensor g: Tensor h: Tensor);

/// Where a sum arrives: `sum(balance: Mean)`. `PIPELINE` is whether the struct has devices.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "a sum cannot arrive in a `{Self}`",
    label = "the sum of a model with devices is a `Sum` or a `Mean` over the micro-batches, and that of a block a `Tensor`"
)]
pub trait Slot<const PIPELINE: bool> {
    fn filled(sum: Tensor) -> Self;
}

impl<const PIPELINE: bool> Slot<PIPELINE> for Sum {
    fn filled(sum: Tensor) -> Self {
        Self(sum)
    }
}

impl<const PIPELINE: bool> Slot<PIPELINE> for Mean {
    fn filled(sum: Tensor) -> Self {
        Self(sum)
    }
}

impl Slot<false> for Tensor {
    fn filled(sum: Tensor) -> Self {
        sum
    }
}

/// The sums before the first layer that adds something.
#[doc(hidden)]
pub fn no_sums<const COUNT: usize>() -> Sums<COUNT> {
    [const { None }; COUNT]
}

/// Adds what a layer returned to the sums, which the layers before it have made: always in the
/// order of the layers, so that the bits do not depend on the stages.
///
/// # Panics
///
/// If the value's shape or kind is not that of the sum. Broadcasting would be wrong in silence.
#[doc(hidden)]
pub fn add_all<const ADDED: usize, const COUNT: usize, R: Adding<ADDED>>(
    returned: R,
    mut sums: Sums<COUNT>,
    names: [Name; ADDED],
    layer: &str,
) -> (R::Output, Sums<COUNT>) {
    let (output, values) = returned.parts();
    for ((number, name), value) in names.into_iter().zip(values) {
        sums[number] = Some(match sums[number].take() {
            Some(sum) => plus(sum, value, name, layer),
            None => value,
        });
    }
    (output, sums)
}

fn plus(sum: Tensor, value: Tensor, name: &str, layer: &str) -> Tensor {
    let of = |tensor: &Tensor| (tensor.size(), tensor.kind());
    if of(&sum) != of(&value) {
        let ((size, kind), (size_before, kind_before)) = (of(&value), of(&sum));
        panic!(
            "`{layer}` adds {kind:?} numbers of the size {size:?} to `{name}`, where the layers before it have added \
             {kind_before:?} numbers of the size {size_before:?}: make them alike"
        );
    }
    sum + value
}

/// Gives out a sum, when all layers have run.
///
/// # Panics
///
/// If no layer has added to it, because all that could are `Vec`s without layers.
#[doc(hidden)]
pub fn slot<S: Slot<PIPELINE>, const PIPELINE: bool>(sum: Option<Tensor>, name: &str) -> S {
    match sum {
        Some(sum) => S::filled(sum),
        None => panic!("no layer has added to `{name}`: the `Vec`s whose layers add to it are empty"),
    }
}
