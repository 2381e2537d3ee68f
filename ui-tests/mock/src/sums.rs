//! A copy of the runtime's `Adding` and `Slot`.

use crate::__rt::{Mean, Sum};
use crate::Tensor;

/// What a layer with `#[sum(..)]` returns: a tuple of its output and a tensor for each of `COUNT`
/// names.
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
