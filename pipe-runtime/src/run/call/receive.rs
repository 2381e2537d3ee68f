use std::sync::Mutex;

use tch::Tensor;

use super::forward::Call;
use crate::flow::{CHANGED_ON_ITS_WAY, PackedValue};
use crate::lock::{give_up, lock};
use crate::run::device_streams::Direction;
use crate::run::repeats::{Held, HeldTensor, Sent, repeats};
use crate::torch::{TorchError, version};

/// Tensors that were copied to the device of another stage, and that other micro-batches may send
/// too.
#[derive(Debug, Default)]
pub(super) struct Copied {
    sources: Mutex<Held>,
    copies: Mutex<Held>,
}

impl Call {
    /// Receives the value that was sent through `port`, and moves it to the device of `stage`.
    pub(super) fn receive(&self, stage: usize, port: usize, mut value: PackedValue) -> PackedValue {
        if value.is_changed() {
            give_up(CHANGED_ON_ITS_WAY);
        }
        self.arrive(stage, port, &mut value).unwrap_or_else(|error| give_up(error.to_string()));
        for item in &mut value.tensors {
            item.version = version(&item.tensor);
        }
        value
    }

    fn arrive(&self, stage: usize, port: usize, value: &mut PackedValue) -> Result<(), TorchError> {
        let ready = value.ready.take();
        let sent = self.sent(stage, port, value)?;
        let mut moved = Vec::with_capacity(value.tensors.len());
        for (position, item) in value.tensors.iter_mut().enumerate() {
            let is_repeated = sent.get(position) == Some(&Sent::Before);
            match is_repeated.then(|| self.copied.before((port, position))).flatten() {
                Some(copy) => item.tensor = copy,
                None => moved.push((position, item)),
            }
        }
        let tensors = moved.iter_mut().map(|(_, item)| &mut item.tensor);
        self.pipeline.streams.move_to_stage(stage, (port, Direction::Forward), ready.as_deref(), tensors)?;
        for (position, item) in moved {
            if matches!(sent.get(position), Some(Sent::Once | Sent::Before)) {
                self.copied.keep((port, position), &item.tensor);
            }
        }
        Ok(())
    }

    /// For each tensor of a value that is copied to another device, how often it is sent; nothing
    /// if none is copied.
    fn sent(&self, stage: usize, port: usize, value: &PackedValue) -> Result<Vec<Sent>, TorchError> {
        let from = self.pipeline.routes[port].from.filter(|&from| self.pipeline.is_here(from));
        let Some(from) = from.filter(|&from| !self.pipeline.streams.share_device(from, stage)) else {
            return Ok(Vec::new());
        };
        let mut sources = lock(&self.copied.sources);
        // After the first micro-batch, it is known which tensors could be variables.
        let is_known = (0..value.tensors.len()).all(|position| sources.contains_key(&(port, position)));
        let variables = (!is_known).then(|| self.pipeline.state.variables(from)).transpose()?;
        let is_variable = |tensor: &Tensor| {
            let mut variables = variables.iter().flat_map(|variables| variables.iter());
            variables.any(|variable| variable.tensor.data_ptr() == tensor.data_ptr())
        };
        Ok(repeats(port, value, &mut sources, &is_variable))
    }
}

impl Copied {
    /// The copy of what was sent before at this place. A layer may have changed it in place: then
    /// there is none.
    fn before(&self, place: (usize, usize)) -> Option<Tensor> {
        let copies = lock(&self.copies);
        let HeldTensor { tensor, version: then, .. } = copies.get(&place)?.as_ref()?;
        (version(tensor) == *then).then(|| tensor.shallow_clone())
    }

    fn keep(&self, place: (usize, usize), tensor: &Tensor) {
        let held = HeldTensor { tensor: tensor.shallow_clone(), version: version(tensor), ready: None };
        lock(&self.copies).insert(place, Some(held));
    }
}
