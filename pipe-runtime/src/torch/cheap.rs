use std::marker::PhantomData;
use std::ptr::NonNull;

use pipe_schedule::CheapOutputs;

use super::offload::{OffloadStreams, Offloaded};
use super::{TorchError, ffi};

/// A guard: while it exists, graphs that this thread records do not keep cheap outputs, and what
/// they keep can be [offloaded](Self::offload). Not `Send`, because it sets the thread's own state.
#[derive(Debug)]
pub(crate) struct SavingPass {
    pass: NonNull<ffi::SavingPass>,
    _this_thread: PhantomData<*const ()>,
}

impl SavingPass {
    /// Starts a pass of a stage; `None` if it keeps cheap outputs and does not offload.
    pub(crate) fn start(outputs: CheapOutputs, offloads: bool) -> Result<Option<Self>, TorchError> {
        let noted = match outputs {
            CheapOutputs::Keep if !offloads => return Ok(None),
            CheapOutputs::Keep => 0,
            CheapOutputs::RecomputePointwise => 1,
            CheapOutputs::RecomputeAll => 2,
        };
        // SAFETY: writes a new pass; it sets this thread's state, and installs kernels once.
        let pass = ffi::owned(|pass| unsafe { ffi::pipe_saving_enter(noted, pass) })?;
        Ok(Some(Self { pass, _this_thread: PhantomData }))
    }

    /// Ends the pass, and moves to the host what its graph alone keeps: memory of at least
    /// `min_bytes`, on the device of the streams. The stage's stream must be the current one.
    pub(crate) fn offload(self, streams: OffloadStreams, min_bytes: usize) -> Result<Offloaded, TorchError> {
        // SAFETY: the thread is in the pass. Reads the streams, and writes a new handle.
        ffi::owned(|offloaded| unsafe { ffi::pipe_saving_offload(&streams.out, &streams.back, min_bytes, offloaded) })
            .map(Offloaded)
    }
}

impl Drop for SavingPass {
    fn drop(&mut self) {
        // SAFETY: made by `pipe_saving_enter` on this thread, freed once.
        unsafe { ffi::pipe_saving_leave(self.pass.as_ptr()) }
    }
}
