use tch::{Device, TchError, Tensor};

use super::ffi::Memory;
use super::{GradMode, TorchError, ffi};

/// Reads what the device's allocator has handed out; `None` if it does not count, like the CPU's.
pub(crate) fn memory(device: Device) -> Result<Option<Memory>, TorchError> {
    let (mut counted, mut memory) = (0, Memory::default());
    // SAFETY: writes the two values.
    ffi::check(unsafe { ffi::pipe_memory(ffi::number(device), &mut counted, &mut memory) })?;
    Ok((counted != 0).then_some(memory))
}

/// A copy with the strides of the original, and without a gradient.
pub(crate) fn duplicate(tensor: &Tensor) -> Result<Tensor, TchError> {
    let _constant = GradMode::set(false);
    let mut copy = tensor.f_empty_like()?;
    copy.f_copy_(tensor)?;
    Ok(copy)
}

/// Restarts the allocator's peaks from what is allocated now.
pub(crate) fn reset_peaks(device: Device) -> Result<(), TorchError> {
    // SAFETY: changes only the allocator's own counts, under its lock.
    ffi::check(unsafe { ffi::pipe_memory_reset_peaks(ffi::number(device)) })
}
