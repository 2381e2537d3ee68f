use std::marker::PhantomData;
use std::ptr::{self, NonNull};

use pipe_schedule::CheapOutputs;

use super::{TorchError, ffi};

/// A guard: while it exists, graphs that this thread records do not keep cheap outputs. Not `Send`,
/// because it sets the thread's own state.
#[derive(Debug)]
pub(crate) struct CheapPass {
    pass: NonNull<ffi::CheapPass>,
    _this_thread: PhantomData<*const ()>,
}

impl CheapPass {
    /// Starts a pass of a stage; `None` if it keeps cheap outputs.
    pub(crate) fn start(outputs: CheapOutputs) -> Result<Option<Self>, TorchError> {
        if outputs == CheapOutputs::Keep {
            return Ok(None);
        }
        let mut pass = ptr::null_mut();
        let all = outputs == CheapOutputs::RecomputeAll;
        // SAFETY: writes a new pass; it sets this thread's state, and installs kernels once.
        ffi::check(unsafe { ffi::pipe_cheap_enter(all.into(), &mut pass) })?;
        let pass = NonNull::new(pass).expect("the shim wrote the pass");
        Ok(Some(Self { pass, _this_thread: PhantomData }))
    }
}

impl Drop for CheapPass {
    fn drop(&mut self) {
        // SAFETY: made by `pipe_cheap_enter` on this thread, freed once.
        unsafe { ffi::pipe_cheap_leave(self.pass.as_ptr()) }
    }
}
