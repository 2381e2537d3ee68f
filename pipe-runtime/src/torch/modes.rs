use std::marker::PhantomData;
use std::ptr::{self, NonNull};

use tch::Tensor;

use super::{TorchError, ffi};

/// A snapshot of a thread's modes: autocast, grad mode, and whatever else libtorch keeps per
/// thread.
#[derive(Debug)]
pub(crate) struct Modes(NonNull<ffi::ThreadLocalState>);

// SAFETY: libtorch itself passes such values between threads; it is only read after `capture`.
unsafe impl Send for Modes {}
// SAFETY: as above.
unsafe impl Sync for Modes {}

impl Modes {
    /// Captures the current modes of this thread.
    pub(crate) fn capture() -> Result<Self, TorchError> {
        let mut modes = ptr::null_mut();
        // SAFETY: writes a new value on success.
        ffi::check(unsafe { ffi::pipe_modes_capture(&mut modes) })?;
        Ok(Self(NonNull::new(modes).expect("the shim wrote the modes")))
    }

    /// Applies these modes to this thread until the guard is dropped, with autocast's weight cache
    /// disabled.
    pub(crate) fn enter(&self) -> Result<EnteredModes, TorchError> {
        let mut entered = ptr::null_mut();
        // SAFETY: the captured state is alive; the guard owns the state that it restores.
        ffi::check(unsafe { ffi::pipe_modes_enter(self.0.as_ptr(), &mut entered) })?;
        let entered = NonNull::new(entered).expect("the shim wrote the guard");
        Ok(EnteredModes { entered, _this_thread: PhantomData })
    }
}

impl Drop for Modes {
    fn drop(&mut self) {
        // SAFETY: made by `pipe_modes_capture`, freed once.
        unsafe { ffi::pipe_modes_free(self.0.as_ptr()) }
    }
}

/// Guard that restores the thread's previous modes when dropped. Not `Send`: it belongs to the
/// thread that entered.
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

/// Guard that sets whether this thread records gradients, and restores the previous setting when
/// dropped, also on a panic.
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

/// The number of in-place changes of `tensor` so far; 0 if it has no version counter.
pub(crate) fn version(tensor: &Tensor) -> u64 {
    // SAFETY: the handle is alive.
    unsafe { ffi::pipe_version(tensor.as_ptr()) }
}
