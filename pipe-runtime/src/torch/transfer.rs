use std::ptr;

use tch::{Device, Tensor};

use super::stream::{Event, Stream};
use super::{TorchError, ffi};

/// The streams on which values are copied from one stage's device to another's; `None` for a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CopyStreams {
    pub(crate) from: Option<Stream>,
    pub(crate) to: Option<Stream>,
}

/// Copies `value` to `device`, whose stage computes on `consumer`. The value is complete after
/// `ready`, or now if that is `None`.
///
/// The copy starts as soon as the value is complete, and overlaps with the work of both stages.
/// `consumer` waits for its end; on the CPU, the host waits.
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

/// Copies a tensor that is a part of one which takes at least twice its memory, so that it does not
/// hold the rest: a part of a concatenation's gradient, for example. Returns other tensors as they
/// are.
pub(crate) fn compact(tensor: &Tensor) -> Result<Tensor, TorchError> {
    let mut compact = ptr::null_mut();
    // SAFETY: the handle is alive. The result is a new handle.
    ffi::check(unsafe { ffi::pipe_compact(tensor.as_ptr(), &mut compact) })?;
    Ok(ffi::take(compact).expect("the shim wrote a tensor"))
}
