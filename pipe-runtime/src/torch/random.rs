use std::ffi::c_int;
use std::marker::PhantomData;
use std::sync::OnceLock;

use super::{TorchError, ffi};

/// While it lives, this thread's random operators draw from the stream last started by [`restart_stream`].
#[derive(Debug)]
pub(crate) struct RandomStreams {
    before: c_int,
    _this_thread: PhantomData<*const ()>,
}

impl RandomStreams {
    pub(crate) fn enter() -> Result<Self, TorchError> {
        install()?;
        // SAFETY: sets a thread-local dispatch flag, whose kernels are installed.
        let before = unsafe { ffi::pipe_random_enter() };
        Ok(Self { before, _this_thread: PhantomData })
    }
}

/// Puts the kernels in place, once per process; gives the number of operators that they cover.
fn install() -> Result<usize, TorchError> {
    static INSTALLED: OnceLock<Result<usize, TorchError>> = OnceLock::new();
    let installed = INSTALLED.get_or_init(|| {
        let mut operators = 0;
        // SAFETY: writes the count; libtorch's dispatcher locks its own tables.
        ffi::check(unsafe { ffi::pipe_random_install(&mut operators) }).map(|()| operators)
    });
    installed.clone()
}

impl Drop for RandomStreams {
    fn drop(&mut self) {
        // SAFETY: puts the thread-local flag back.
        unsafe { ffi::pipe_random_leave(self.before) }
    }
}

/// Starts the stream `seed` on this thread. Cheap: a generator is seeded when something draws.
pub(crate) fn restart_stream(seed: u64) {
    // SAFETY: writes this thread's own state.
    unsafe { ffi::pipe_random_restart(seed) }
}

/// One number from the process's default CPU generator: what `tch::manual_seed` fixes.
pub(crate) fn draw_seed() -> Result<u64, TorchError> {
    let mut number = 0;
    // SAFETY: writes the number; the generator's own lock is held inside.
    ffi::check(unsafe { ffi::pipe_random_draw(&mut number) })?;
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// They are found by their schemas, so the number says that none was passed over.
    #[test]
    fn every_operator_of_libtorch_that_takes_a_generator_draws_from_streams() {
        assert!(install().unwrap() >= 85, "{:?}", install());
    }
}
