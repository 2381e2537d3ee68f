//! Functions that generated code calls on values of layers.

use crate::flow::Flow;
use crate::model::Model;

/// Returns a second handle to a value that is kept for a later layer.
pub fn keep<T: Flow>(value: &T) -> T {
    value.share()
}

/// Returns the output of the last layer, which must have the model's output type.
#[doc(hidden)]
pub fn output<M: Model>(value: M::Output) -> M::Output {
    value
}
