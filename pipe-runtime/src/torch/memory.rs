use tch::Device;

use super::ffi::Memory;
use super::{TorchError, ffi};

/// The memory that the device's allocator has handed out. `None` if it keeps no count, like that of
/// the CPU.
pub(crate) fn memory(device: Device) -> Result<Option<Memory>, TorchError> {
    let (mut counted, mut memory) = (0, Memory::default());
    // SAFETY: writes the two values.
    ffi::check(unsafe { ffi::pipe_memory(ffi::number(device), &mut counted, &mut memory) })?;
    Ok((counted != 0).then_some(memory))
}

/// Resets the peaks of the device's allocator to what is allocated now.
pub(crate) fn reset_peaks(device: Device) -> Result<(), TorchError> {
    // SAFETY: changes only the allocator's own counts, under its lock.
    ffi::check(unsafe { ffi::pipe_memory_reset_peaks(ffi::number(device)) })
}
