//! Functions that generated code calls on values of layers.

use crate::flow::Flow;
use crate::model::Model;

/// Creates a second handle to a value that is stashed for a later layer.
pub fn keep<T: Flow>(value: &T) -> T {
    value.share()
}

/// Drops a lent value that no later layer of the stage reads. Lints about `core::mem::drop` would
/// name the user's code, for values that have nothing to free.
pub fn release<T>(_value: T) {}

/// The type `M` for itself: what the last layer gives, as the model's output.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "the last layer gives `{Self}`, but the output of the model is `{M}`",
    label = "this layer gives `{Self}`",
    note = "the output is a `Tensor` unless the struct says otherwise: `#[pipeline(output = (Tensor, Tensor))]`",
    note = "a last layer that returns `(output, a)` needs `#[sum(a)]`, or all of it is the output; so does a block that declares `sum(a: A)`"
)]
pub trait Gives<M> {
    /// The same value.
    fn given(self) -> M;
}

impl<M> Gives<M> for M {
    fn given(self) -> M {
        self
    }
}

/// Returns the last layer's output unchanged. The bound makes rustc check that it has the type of
/// the model's output.
#[doc(hidden)]
pub fn output<M: Model>(value: impl Gives<M::Output>) -> M::Output {
    value.given()
}
