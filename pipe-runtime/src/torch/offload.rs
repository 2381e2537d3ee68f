use std::ptr::NonNull;

use super::{Stream, TorchError, ffi};

/// Which activations are moved to the host's memory between a forward and its backward.
///
/// ```
/// use pipe_runtime::Offload;
///
/// // Tensors of at least 1 MiB, of all stages on accelerators.
/// let all = Offload::at_least(1 << 20);
/// // The same of the first two stages.
/// let first = Offload::at_least(1 << 20).stages([0, 1]);
/// assert_ne!(all, first);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Offload {
    pub(crate) min_bytes: usize,
    /// `None` for all stages on accelerators.
    pub(crate) stages: Option<Vec<usize>>,
}

impl Offload {
    /// Moves tensors whose memory has at least `min_bytes` bytes, of all stages on accelerators. A
    /// stage on the CPU has nothing to move: it keeps its tensors where they are.
    pub fn at_least(min_bytes: usize) -> Self {
        Self { min_bytes, stages: None }
    }

    /// Chooses the stages, by their numbers from 0. The pipeline is not built if one of them does
    /// not exist or is on the CPU.
    #[must_use]
    pub fn stages(mut self, stages: impl IntoIterator<Item = usize>) -> Self {
        self.stages = Some(stages.into_iter().collect());
        self
    }
}

/// The streams of a device on which copies to and from the host run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OffloadStreams {
    pub(crate) out: Stream,
    pub(crate) back: Stream,
}

/// What was moved to the host after a pass. It does not keep the values: the pass's graph does.
#[derive(Debug)]
pub(crate) struct Offloaded(pub(super) NonNull<ffi::Offloaded>);

// SAFETY: all uses of the values take the pass's lock, in the shim.
unsafe impl Send for Offloaded {}

impl Offloaded {
    /// Starts the copies back of what the graph still needs, in the order of a backward. Nothing
    /// waits: the stream that uses a value waits when it is asked for.
    pub(crate) fn prefetch(&mut self) -> Result<(), TorchError> {
        // SAFETY: the handle is alive.
        ffi::check(unsafe { ffi::pipe_offloaded_prefetch(self.0.as_ptr()) })
    }

    /// Frees on the device what was brought back and is still needed later. It stays on the host.
    pub(crate) fn release(&mut self) -> Result<(), TorchError> {
        // SAFETY: the handle is alive.
        ffi::check(unsafe { ffi::pipe_offloaded_release(self.0.as_ptr()) })
    }
}

impl Drop for Offloaded {
    fn drop(&mut self) {
        // SAFETY: made by `pipe_saving_offload`, freed once.
        unsafe { ffi::pipe_offloaded_free(self.0.as_ptr()) }
    }
}
