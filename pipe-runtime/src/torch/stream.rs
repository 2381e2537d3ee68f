use std::ffi::c_void;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};

use pipe_comm::nccl::DeviceStream;
use tch::{Device, Tensor};

pub(crate) use super::ffi::Stream;
use super::{TorchError, ffi};

impl Stream {
    /// Takes a stream from the pool of an accelerator, or its only stream if it has no pool.
    pub(crate) fn new(device: Device) -> Result<Self, TorchError> {
        let mut stream = Self::default();
        // SAFETY: writes the stream.
        ffi::check(unsafe { ffi::pipe_stream_new(ffi::number(device), &mut stream) })?;
        Ok(stream)
    }

    /// The stream that this thread uses on the same device.
    pub(crate) fn current(&self) -> Result<Self, TorchError> {
        let mut current = Self::default();
        // SAFETY: reads one stream and writes the other.
        ffi::check(unsafe { ffi::pipe_stream_current(self, &mut current) })?;
        Ok(current)
    }

    /// Makes the stream and its device current for this thread, until the guard is dropped.
    pub(crate) fn enter(&self) -> Result<OnStream, TorchError> {
        // SAFETY: the guard owns what it needs to restore the stream and the device.
        let entered = ffi::owned(|entered| unsafe { ffi::pipe_stream_enter(self, entered) })?;
        Ok(OnStream { entered, _this_thread: PhantomData })
    }

    /// Records an event after the work that is queued on the stream.
    pub(crate) fn record(&self) -> Result<Event, TorchError> {
        // SAFETY: writes a new event.
        ffi::owned(|event| unsafe { ffi::pipe_event_record(self, event) }).map(Event)
    }

    /// Makes work that is queued on the stream from now on wait for the event. The host does not
    /// wait.
    pub(crate) fn wait(&self, event: &Event) -> Result<(), TorchError> {
        // SAFETY: the event is alive.
        ffi::check(unsafe { ffi::pipe_stream_wait(self, event.0.as_ptr()) })
    }

    /// The stream's handle in CUDA.
    pub(crate) fn handle(&self) -> Result<StreamHandle, TorchError> {
        let mut handle = ptr::null_mut();
        // SAFETY: writes the handle.
        ffi::check(unsafe { ffi::pipe_stream_handle(self, &mut handle) })?;
        Ok(StreamHandle(handle as usize))
    }

    /// Records that work on this stream uses the tensor, so that its memory is not reused before
    /// that work is done. Does nothing if the tensor is on another device.
    pub(crate) fn uses(&self, tensor: &Tensor) -> Result<(), TorchError> {
        // SAFETY: the tensor is alive.
        ffi::check(unsafe { ffi::pipe_stream_uses(self, tensor.as_ptr()) })
    }
}

/// A stream's handle in CUDA.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamHandle(usize);

// SAFETY: libtorch's streams are never destroyed.
unsafe impl DeviceStream for StreamHandle {
    fn handle(&self) -> *mut c_void {
        self.0 as *mut c_void
    }
}

/// An event in a stream.
#[derive(Debug)]
pub(crate) struct Event(pub(super) NonNull<ffi::Event>);

// SAFETY: recorded once, by `Stream::record`; afterwards threads only wait for it, which
// accelerators allow from any thread.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    /// Whether all work before the event is done. The host does not wait.
    pub(crate) fn is_past(&self) -> Result<bool, TorchError> {
        let mut is_past = false;
        // SAFETY: the event is alive. Writes the answer.
        ffi::check(unsafe { ffi::pipe_event_is_past(self.0.as_ptr(), &mut is_past) })?;
        Ok(is_past)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made by `pipe_event_record`, freed once.
        unsafe { ffi::pipe_event_free(self.0.as_ptr()) }
    }
}

/// Restores the thread's stream and device when dropped. Not `Send`, because it belongs to one
/// thread.
#[derive(Debug)]
pub(crate) struct OnStream {
    entered: NonNull<ffi::OnStream>,
    _this_thread: PhantomData<*const ()>,
}

impl Drop for OnStream {
    fn drop(&mut self) {
        // SAFETY: made by `pipe_stream_enter` on this thread, freed once.
        unsafe { ffi::pipe_stream_leave(self.entered.as_ptr()) }
    }
}
