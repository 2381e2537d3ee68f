use std::ptr;

use tch::{Device, Tensor};

use super::stream::{Event, Stream};
use super::{TorchError, ffi};

/// The streams on which values are copied from one stage's device to another's; `None` on a side
/// that is the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CopyStreams {
    pub(crate) from: Option<Stream>,
    pub(crate) to: Option<Stream>,
}

/// Copies `value` to `device`, whose stage works on `consumer`. The value is complete once `ready`
/// has passed; without an event, it already is.
///
/// The copy starts as soon as the value is complete, concurrently with other work of the two
/// stages. `consumer` waits for the end of the copy; if `device` is the CPU, the host waits.
pub(crate) fn transfer(
    value: &Tensor,
    ready: Option<&Event>,
    streams: CopyStreams,
    device: Device,
    consumer: Option<Stream>,
) -> Result<Tensor, TorchError> {
    let pointer = |stream: &Option<Stream>| stream.as_ref().map_or(ptr::null(), ptr::from_ref);
    let mut arrived = ptr::null_mut();
    // SAFETY: all handles are alive; null means that there is none. The result is a new tensor.
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
