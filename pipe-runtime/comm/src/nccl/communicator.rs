//! A connection between accelerators.

use std::ffi::{c_int, c_void};
use std::fmt;
use std::sync::Arc;

use super::functions::{BYTES, Config, Functions, ID_BYTES, IN_PROGRESS, SUCCESS, UniqueId};
use crate::CommError;

/// The thread blocks that a kernel of a communicator takes at most. A device has some hundred of
/// them, and a communicator for each neighbour and direction.
const MAX_CTAS: c_int = 8;

/// Memory of an accelerator.
///
/// # Safety
///
/// As long as work on the stream with which the value is used is not done, the bytes stay at their
/// address, even if the value is dropped, and nothing else uses them (or, if they are sent, writes
/// them).
pub unsafe trait DeviceBytes {
    /// The address of the first byte, in the memory of the accelerator.
    fn address(&self) -> *mut c_void;
    /// The number of bytes.
    fn length(&self) -> usize;
}

/// A stream of an accelerator.
///
/// # Safety
///
/// The handle is that of a stream that exists for as long as the process.
pub unsafe trait DeviceStream {
    /// The `cudaStream_t`.
    fn handle(&self) -> *mut c_void;
}

/// A communicator. It is aborted when it is dropped, with all that is under way: the work on its
/// streams ends, and received memory may have any contents then.
pub struct Communicator {
    functions: Arc<Functions>,
    handle: usize,
}

impl fmt::Debug for Communicator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Communicator").field("library", &self.functions.name).finish_non_exhaustive()
    }
}

impl Communicator {
    pub(super) fn new(functions: Arc<Functions>, id: &[u8], rank: usize, size: usize) -> Result<Self, CommError> {
        let wrong = |what: &str| CommError::Nccl { function: "ncclCommInitRankConfig", text: what.to_owned() };
        let id =
            <[u8; ID_BYTES]>::try_from(id).map_err(|_| wrong("the name of the communicator has another length"))?;
        let [rank, size] = [rank, size].map(c_int::try_from);
        let (Ok(rank), Ok(size)) = (rank, size) else { return Err(wrong("there are too many processes")) };
        let mut config = Config::without_waiting(MAX_CTAS);
        let mut handle = 0;
        // SAFETY: writes the handle, and reads the name and the settings.
        let result =
            unsafe { (functions.comm_init_rank_config)(&raw mut handle, size, UniqueId(id), rank, &raw mut config) };
        let made = functions.check("ncclCommInitRankConfig", result, 0);
        // Also a communicator that could not be made may have something to free.
        let communicator = (handle != 0).then(|| Self { functions, handle });
        made?;
        communicator.ok_or_else(|| wrong("NCCL made no communicator"))
    }

    /// Whether what was called last is done on the host: the communicator is made, or the work is
    /// queued on its stream. Nothing else may be called before.
    ///
    /// # Errors
    ///
    /// If NCCL has noticed an error, of this call or of an earlier one.
    pub fn is_ready(&mut self) -> Result<bool, CommError> {
        let mut state = SUCCESS;
        // SAFETY: the communicator exists. Writes the state.
        let result = unsafe { (self.functions.comm_get_async_error)(self.handle, &raw mut state) };
        self.functions.check("ncclCommGetAsyncError", result, self.handle)?;
        self.functions.check("a communication of NCCL", state, self.handle)?;
        Ok(state != IN_PROGRESS)
    }

    /// Queues a send to process `to` of the communicator on a stream. `is_ready` says when it is
    /// queued.
    ///
    /// # Errors
    ///
    /// If NCCL fails.
    pub fn send(&mut self, to: usize, memory: &impl DeviceBytes, stream: &impl DeviceStream) -> Result<(), CommError> {
        let (stream, functions) = (stream.handle(), &self.functions);
        // SAFETY: the memory and the stream are what their traits promise.
        let result =
            unsafe { (functions.send)(memory.address(), memory.length(), BYTES, to as c_int, self.handle, stream) };
        functions.check("ncclSend", result, self.handle)
    }

    /// Queues a receive from process `from` of the communicator on a stream. `is_ready` says when
    /// it is queued.
    ///
    /// # Errors
    ///
    /// If NCCL fails.
    pub fn receive(
        &mut self,
        from: usize,
        memory: &impl DeviceBytes,
        stream: &impl DeviceStream,
    ) -> Result<(), CommError> {
        let (stream, functions) = (stream.handle(), &self.functions);
        // SAFETY: as above.
        let result =
            unsafe { (functions.recv)(memory.address(), memory.length(), BYTES, from as c_int, self.handle, stream) };
        functions.check("ncclRecv", result, self.handle)
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        // Unlike `ncclCommDestroy`, this does not wait for the other process.
        // SAFETY: the communicator exists, and is not used any more.
        let _ = unsafe { (self.functions.comm_abort)(self.handle) };
    }
}
