use super::forward::Call;
use crate::flow::{Item, Parcel};
use crate::lock::give_up;
use crate::run::streams::Direction;
use crate::torch::version;

impl Call {
    /// What was sent through `port`, on the device of `stage`, which receives it.
    pub(super) fn arrive(&self, stage: usize, port: usize, mut parcel: Parcel) -> Parcel {
        if parcel.items.iter().any(Item::is_changed) {
            give_up(
                "a value on its way to this stage was modified by an in-place operation of another one: the two share its memory. \
                 Let that layer work on a copy",
            );
        }
        let ready = parcel.ready.take();
        let tensors = parcel.items.iter_mut().map(|item| &mut item.tensor);
        let arrived = self.network.streams.arrive(stage, (port, Direction::Forward), ready.as_deref(), tensors);
        arrived.unwrap_or_else(|error| give_up(error.to_string()));
        for item in &mut parcel.items {
            item.version = version(&item.tensor);
        }
        parcel
    }
}
