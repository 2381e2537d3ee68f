use std::ptr::NonNull;

use tch::Tensor;

use super::{TorchError, ffi};

/// The version counter of a tensor, which counts its in-place changes. It keeps none of the
/// tensor's memory alive.
#[derive(Debug)]
pub(crate) struct Counter(NonNull<ffi::Counter>);

// SAFETY: libtorch's counters are atomic.
unsafe impl Send for Counter {}
// SAFETY: as above.
unsafe impl Sync for Counter {}

impl Counter {
    pub(crate) fn of(tensor: &Tensor) -> Result<Self, TorchError> {
        // SAFETY: the handle is alive; the result is new.
        ffi::owned(|counter| unsafe { ffi::pipe_counter_of(tensor.as_ptr(), counter) }).map(Self)
    }

    /// The number of in-place changes.
    pub(crate) fn now(&self) -> u64 {
        // SAFETY: the handle is alive.
        unsafe { ffi::pipe_counter_now(self.0.as_ptr()) }
    }

    /// Counts a change made through another tensor that shares the memory.
    pub(crate) fn bump(&self) -> Result<(), TorchError> {
        // SAFETY: the handle is alive; the count is atomic.
        ffi::check(unsafe { ffi::pipe_counter_bump(self.0.as_ptr()) })
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        // SAFETY: made by `pipe_counter_of`, freed once.
        unsafe { ffi::pipe_counter_free(self.0.as_ptr()) }
    }
}
