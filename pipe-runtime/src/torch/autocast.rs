use std::ffi::c_int;
use std::marker::PhantomData;

use super::{TorchError, ffi};

/// Guard that restores the previous autocast state when dropped, also on a panic.
pub(crate) struct Autocast {
    cuda: bool,
    before: State,
    _this_thread: PhantomData<*const ()>,
}

#[derive(Clone, Copy)]
struct State {
    enabled: bool,
    half: bool,
}

impl Autocast {
    /// Enables autocast on this thread, on CUDA devices or on the CPU: to float16 if `half`, else
    /// to bfloat16.
    pub(crate) fn enter(cuda: bool, half: bool) -> Result<Self, TorchError> {
        let before = set(cuda, State { enabled: true, half })?;
        Ok(Self { cuda, before, _this_thread: PhantomData })
    }
}

impl Drop for Autocast {
    fn drop(&mut self) {
        // Setting the thread-local flags fails only for device types for which `enter` has failed.
        let _ = set(self.cuda, self.before);
    }
}

fn set(cuda: bool, state: State) -> Result<State, TorchError> {
    let (mut enabled, mut half): (c_int, c_int) = (0, 0);
    // SAFETY: writes thread-local flags and the two integers.
    ffi::check(unsafe {
        ffi::pipe_autocast_set(cuda.into(), state.enabled.into(), state.half.into(), &mut enabled, &mut half)
    })?;
    Ok(State { enabled: enabled != 0, half: half != 0 })
}
