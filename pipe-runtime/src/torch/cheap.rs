use std::marker::PhantomData;
use std::ptr::{self, NonNull};

use super::{TorchError, ffi};

/// A guard: while it exists, graphs that this thread records do not keep the outputs of norms,
/// activations and the like. Their backward makes these again. Not `Send`, because it sets the
/// thread's own state.
#[derive(Debug)]
pub(crate) struct CheapOutputs {
    pass: NonNull<ffi::CheapPass>,
    _this_thread: PhantomData<*const ()>,
}

impl CheapOutputs {
    /// Starts a pass of a stage whose cheap outputs are made again.
    pub(crate) fn recompute() -> Result<Self, TorchError> {
        let mut pass = ptr::null_mut();
        // SAFETY: writes a new pass; it sets this thread's state, and installs kernels once.
        ffi::check(unsafe { ffi::pipe_cheap_enter(&mut pass) })?;
        let pass = NonNull::new(pass).expect("the shim wrote the pass");
        Ok(Self { pass, _this_thread: PhantomData })
    }
}

impl Drop for CheapOutputs {
    fn drop(&mut self) {
        // SAFETY: made by `pipe_cheap_enter` on this thread, freed once.
        unsafe { ffi::pipe_cheap_leave(self.pass.as_ptr()) }
    }
}
