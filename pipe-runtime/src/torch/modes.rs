use std::marker::PhantomData;
use std::ptr::NonNull;

use tch::Tensor;

use super::{TorchError, ffi};

/// The modes of a thread at one moment: autocast, grad mode, and everything else that libtorch
/// keeps per thread.
#[derive(Debug)]
pub(crate) struct Modes(NonNull<ffi::ThreadLocalState>);

// SAFETY: libtorch itself passes such a value from thread to thread; it is only read after
// `capture`.
unsafe impl Send for Modes {}
// SAFETY: as above.
unsafe impl Sync for Modes {}

impl Modes {
    /// Captures the modes of this thread.
    pub(crate) fn capture() -> Result<Self, TorchError> {
        // SAFETY: writes a new value on success.
        ffi::owned(|modes| unsafe { ffi::pipe_modes_capture(modes) }).map(Self)
    }

    /// Switches this thread to these modes until the guard is dropped. Autocast's cache of weights
    /// is off meanwhile.
    pub(crate) fn enter(&self) -> Result<EnteredModes, TorchError> {
        // SAFETY: the captured state is alive; the guard owns what it needs to restore the modes.
        let entered = ffi::owned(|entered| unsafe { ffi::pipe_modes_enter(self.0.as_ptr(), entered) })?;
        Ok(EnteredModes { entered, _this_thread: PhantomData })
    }
}

impl Drop for Modes {
    fn drop(&mut self) {
        // SAFETY: made by `pipe_modes_capture`, freed once.
        unsafe { ffi::pipe_modes_free(self.0.as_ptr()) }
    }
}

/// Restores the thread's modes when dropped. Not `Send`, because it belongs to one thread.
#[derive(Debug)]
pub(crate) struct EnteredModes {
    entered: NonNull<ffi::EnteredState>,
    _this_thread: PhantomData<*const ()>,
}

impl Drop for EnteredModes {
    fn drop(&mut self) {
        // SAFETY: made by `pipe_modes_enter` on this thread, freed once.
        unsafe { ffi::pipe_modes_leave(self.entered.as_ptr()) }
    }
}

/// Whether this thread records gradients.
pub(crate) fn grad_enabled() -> bool {
    // SAFETY: reads a thread-local flag.
    unsafe { ffi::pipe_grad_mode() != 0 }
}

/// Sets whether this thread records gradients. Restores the setting when dropped, even by a panic.
#[derive(Debug)]
pub(crate) struct GradMode {
    before: bool,
    _this_thread: PhantomData<*const ()>,
}

impl GradMode {
    pub(crate) fn set(enabled: bool) -> Self {
        let before = grad_enabled();
        // SAFETY: writes a thread-local flag.
        unsafe { ffi::pipe_set_grad_mode(enabled.into()) };
        Self { before, _this_thread: PhantomData }
    }
}

impl Drop for GradMode {
    fn drop(&mut self) {
        // SAFETY: writes a thread-local flag.
        unsafe { ffi::pipe_set_grad_mode(self.before.into()) }
    }
}

/// The number of the memory that `tensor` is in, and that of its first element there; `None` for a
/// tensor without memory, or with another layout than strided.
pub(crate) fn memory_of(tensor: &Tensor) -> Option<(u64, i64)> {
    let mut offset = 0;
    // SAFETY: the handle is alive; a number is written.
    let memory = unsafe { ffi::pipe_memory_of(tensor.as_ptr(), &mut offset) };
    (memory != 0).then_some((memory, offset))
}

/// The version of `tensor`: the number of its in-place changes.
pub(crate) fn version(tensor: &Tensor) -> u64 {
    // SAFETY: the handle is alive.
    unsafe { ffi::pipe_version(tensor.as_ptr()) }
}
