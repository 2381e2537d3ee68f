use tch::Device;

use super::ffi::Memory;
use super::{TorchError, ffi};

/// Memory statistics of the device's allocator. `None` if it keeps none, like the CPU's, or if the
/// device has not been used yet.
pub(crate) fn memory(device: Device) -> Result<Option<Memory>, TorchError> {
    let (mut counted, mut memory) = (0, Memory::default());
    // SAFETY: writes the two values.
    ffi::check(unsafe { ffi::pipe_memory(ffi::number(device), &mut counted, &mut memory) })?;
    Ok((counted != 0).then_some(memory))
}

/// Resets the allocator's peaks to what is allocated now.
pub(crate) fn reset_peaks(device: Device) -> Result<(), TorchError> {
    // SAFETY: changes the allocator's counters, under its lock.
    ffi::check(unsafe { ffi::pipe_memory_reset_peaks(ffi::number(device)) })
}
