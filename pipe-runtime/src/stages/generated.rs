//! Functions that generated code calls on values of layers.

use crate::flow::Flow;
use crate::model::Model;

/// Returns a second handle on a value that is kept for a later layer.
pub fn keep<T: Flow>(value: &T) -> T {
    value.share()
}

/// Returns what the last layer gives, typed as what the model gives.
#[doc(hidden)]
pub fn output<M: Model>(value: M::Output) -> M::Output {
    value
}
