//! NCCL, which copies the memory of one accelerator to that of another process.
//!
//! It has no tags: what one process sends to another on a communicator arrives in the order in
//! which it was sent, and both must name the same number of bytes. So whoever uses it tells the
//! receiver by other means what comes. Sends and receives are queued on device streams, and none of
//! the functions waits for another process.

#![allow(unsafe_code)]

mod communicator;
mod functions;

use std::env;
use std::ffi::{CStr, c_int};
use std::fmt;
use std::sync::Arc;

pub use communicator::{Communicator, DeviceBytes, DeviceStream};

use crate::CommError;
use functions::Functions;

/// The variable that names the library; `off` for none.
const VARIABLE: &str = "PIPE_NCCL";

/// NCCL, opened at run time. A clone is a handle to the same library.
///
/// libtorch's CUDA part brings the library `libnccl.so.2`, which is then in the process already.
/// Otherwise, the system's search path is used. The variable `PIPE_NCCL` is the path of another
/// one, or `off` for none.
#[derive(Clone)]
pub struct Nccl(Arc<Functions>);

impl fmt::Debug for Nccl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nccl").field("library", &self.0.name).field("version", &self.0.version).finish()
    }
}

impl Nccl {
    /// Opens the library. Returns `None` if there is none of version 2.14 or newer, or if
    /// `PIPE_NCCL` is `off`.
    ///
    /// # Errors
    ///
    /// If `PIPE_NCCL` names a library that cannot be opened, or that is older.
    pub fn open() -> Result<Option<Self>, CommError> {
        let set = env::var_os(VARIABLE).filter(|set| !set.is_empty());
        if set.as_ref().is_some_and(|set| set == "off") {
            return Ok(None);
        }
        Ok(Functions::open(set.as_deref())?.map(|functions| Self(Arc::new(functions))))
    }

    /// The version, as NCCL writes it in one number: 22809 for 2.28.9.
    pub fn version(&self) -> i32 {
        self.0.version
    }

    /// Makes the name of a new communicator. The process gives it to the others.
    ///
    /// # Errors
    ///
    /// If NCCL fails.
    pub fn unique_id(&self) -> Result<Vec<u8>, CommError> {
        let mut id = functions::UniqueId([0; functions::ID_BYTES]);
        // SAFETY: writes the name.
        let result = unsafe { (self.0.get_unique_id)(&raw mut id) };
        self.0.check("ncclGetUniqueId", result, 0)?;
        Ok(id.0.to_vec())
    }

    /// Joins a communicator of `size` processes, as number `rank`, with the current CUDA device of
    /// this thread. It can be used once it [is ready](Communicator::is_ready).
    ///
    /// # Errors
    ///
    /// If `id` is not the name of a communicator, or NCCL fails.
    pub fn connect(&self, id: &[u8], rank: usize, size: usize) -> Result<Communicator, CommError> {
        Communicator::new(Arc::clone(&self.0), id, rank, size)
    }

    /// A number of 128 bits that only this CUDA device has, if CUDA's driver tells it. Two
    /// processes cannot be in one communicator with one device.
    pub fn device_id(&self, device: usize) -> Option<[u8; 16]> {
        let (get, uuid) = (self.0.device_get?, self.0.device_uuid?);
        let (mut handle, mut id): (c_int, [u8; 16]) = (0, [0; 16]);
        // SAFETY: writes the device's handle. It is an error for a device that does not exist.
        if unsafe { get(&raw mut handle, c_int::try_from(device).ok()?) } != 0 {
            return None;
        }
        // SAFETY: writes the 16 bytes.
        (unsafe { uuid(&raw mut id, handle) } == 0).then_some(id)
    }
}

impl Functions {
    /// Makes an error of a result that is neither success nor a call that is still in progress.
    fn check(&self, function: &'static str, result: c_int, communicator: usize) -> Result<(), CommError> {
        if matches!(result, functions::SUCCESS | functions::IN_PROGRESS) {
            return Ok(());
        }
        // SAFETY: both give a NUL-terminated text that lives as long as the library, or null.
        let texts = unsafe { [(self.get_error_string)(result), (self.get_last_error)(communicator)] };
        let text = |text: *const std::ffi::c_char| {
            // SAFETY: as above.
            (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().trim().to_owned())
        };
        let words: Vec<_> = texts.into_iter().filter_map(text).filter(|text| !text.is_empty()).collect();
        Err(CommError::Nccl { function, text: words.join(": ") })
    }
}
