use super::forward::Call;
use crate::flow::{PackedTensor, PackedValue};
use crate::lock::give_up;
use crate::run::device_streams::Direction;
use crate::torch::version;

impl Call {
    /// Receives a value sent through `port`: moves it to the device of `stage`.
    pub(super) fn receive(&self, stage: usize, port: usize, mut value: PackedValue) -> PackedValue {
        if value.tensors.iter().any(PackedTensor::is_changed) {
            give_up(
                "a value on its way to this stage was modified by an in-place operation of another one: the two share its memory. \
                 Let that layer work on a copy",
            );
        }
        let ready = value.ready.take();
        let tensors = value.tensors.iter_mut().map(|item| &mut item.tensor);
        let arrived = self.pipeline.streams.move_to_stage(stage, (port, Direction::Forward), ready.as_deref(), tensors);
        arrived.unwrap_or_else(|error| give_up(error.to_string()));
        for item in &mut value.tensors {
            item.version = version(&item.tensor);
        }
        value
    }
}
