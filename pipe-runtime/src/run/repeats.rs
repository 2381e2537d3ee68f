//! Tensors that several micro-batches send alike: a variable that is lent to another stage, and
//! what each micro-batch gets whole. They go to another device or process once per call.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::flow::{PackedTensor, PackedValue, Split};
use crate::torch::{Event, version};

/// Whether a tensor is sent with each micro-batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Sent {
    /// It is.
    Each,
    /// It is sent now, and the other micro-batches may have the same one.
    Once,
    /// It is the one that was sent before at this place of a port.
    Before,
}

/// The tensors that one side has sent, or received, and that other micro-batches may have too, by
/// port and position; `None` where each micro-batch has its own.
pub(crate) type Held = HashMap<(usize, usize), Option<HeldTensor>>;

#[derive(Debug)]
pub(crate) struct HeldTensor {
    pub(crate) tensor: Tensor,
    pub(crate) version: u64,
    /// The event after which a received one is complete.
    pub(crate) ready: Option<Arc<Event>>,
}

/// Says of each tensor of a value how often it is sent on the port. `held` has those that were sent
/// before: variables, and what each micro-batch gets whole.
pub(crate) fn repeats(
    port: usize,
    value: &PackedValue,
    held: &mut Held,
    is_variable: &dyn Fn(&Tensor) -> bool,
) -> Vec<Sent> {
    let of = |(position, item): (usize, &PackedTensor)| {
        let tensor = &item.tensor;
        match held.get(&(port, position)) {
            Some(Some(HeldTensor { tensor: before, version: then, .. })) => {
                let layout = |tensor: &Tensor| (tensor.size(), tensor.stride(), tensor.kind(), tensor.is_sparse());
                let same = layout(before) == layout(tensor)
                    && before.data_ptr() == tensor.data_ptr()
                    && *then == version(tensor);
                if same {
                    return Sent::Before;
                }
                held.insert((port, position), None);
                return Sent::Each;
            }
            Some(None) => return Sent::Each,
            None => {}
        }
        let repeats = !tensor.is_sparse() && tensor.numel() > 0 && (item.split == Split::Whole || is_variable(tensor));
        let new = || HeldTensor { tensor: tensor.shallow_clone(), version: version(tensor), ready: None };
        held.insert((port, position), repeats.then(new));
        if repeats { Sent::Once } else { Sent::Each }
    };
    value.tensors.iter().enumerate().map(of).collect()
}
