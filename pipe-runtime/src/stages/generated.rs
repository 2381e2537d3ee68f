//! Functions that generated code calls on values of layers.

use crate::flow::Flow;
use crate::model::Model;

/// Creates a second handle to a value that is stashed for a later layer.
pub fn keep<T: Flow>(value: &T) -> T {
    value.share()
}

/// Returns the last layer's output unchanged. The signature makes rustc check that it has the type
/// of the model's output.
#[doc(hidden)]
pub fn output<M: Model>(value: M::Output) -> M::Output {
    value
}
