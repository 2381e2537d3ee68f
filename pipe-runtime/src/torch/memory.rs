use tch::Device;

use super::ffi::Memory;
use super::{TorchError, ffi};

/// What the device's allocator has handed out; `None` where it keeps no count, as the CPU's.
pub(crate) fn memory(device: Device) -> Result<Option<Memory>, TorchError> {
    let (mut counted, mut memory) = (0, Memory::default());
    // SAFETY: writes the two values.
    ffi::check(unsafe { ffi::pipe_memory(ffi::number(device), &mut counted, &mut memory) })?;
    Ok((counted != 0).then_some(memory))
}

/// The allocator's peaks start again from what is allocated now.
pub(crate) fn reset_peaks(device: Device) -> Result<(), TorchError> {
    // SAFETY: changes the allocator's own counts, under its lock.
    ffi::check(unsafe { ffi::pipe_memory_reset_peaks(ffi::number(device)) })
}
