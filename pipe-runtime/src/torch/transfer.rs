use std::ptr;

use tch::{Device, Tensor};

use super::stream::{Event, Stream};
use super::{TorchError, ffi};

/// The device streams on which values are copied from the device of one stage to that of another.
/// `None` on the side of the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CopyStreams {
    pub(crate) from: Option<Stream>,
    pub(crate) to: Option<Stream>,
}

/// Copies `value` to `device`, whose stage works on `consumer`. The value is complete once `ready`
/// has passed, or already if that is `None`.
///
/// The copy starts as soon as the value is complete, and runs concurrently with the work of the two
/// stages. `consumer` waits for its end. If `device` is the CPU, the host waits instead.
pub(crate) fn transfer(
    value: &Tensor,
    ready: Option<&Event>,
    streams: CopyStreams,
    device: Device,
    consumer: Option<Stream>,
) -> Result<Tensor, TorchError> {
    let pointer = |stream: &Option<Stream>| stream.as_ref().map_or(ptr::null(), ptr::from_ref);
    let mut arrived = ptr::null_mut();
    // SAFETY: all handles are alive; null stands for an absent one. The result is a new tensor.
    ffi::check(unsafe {
        ffi::pipe_transfer(
            value.as_ptr(),
            ready.map_or(ptr::null(), |event| event.0.as_ptr()),
            pointer(&streams.from),
            pointer(&streams.to),
            pointer(&consumer),
            ffi::number(device),
            &mut arrived,
        )
    })?;
    Ok(ffi::take(arrived).expect("the shim wrote a tensor"))
}
