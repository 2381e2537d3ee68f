use super::forward::Call;
use crate::flow::{CHANGED_ON_ITS_WAY, PackedValue};
use crate::lock::give_up;
use crate::run::device_streams::Direction;
use crate::torch::version;

impl Call {
    /// Receives the value that was sent through `port`, and moves it to the device of `stage`.
    pub(super) fn receive(&self, stage: usize, port: usize, mut value: PackedValue) -> PackedValue {
        if value.is_changed() {
            give_up(CHANGED_ON_ITS_WAY);
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
