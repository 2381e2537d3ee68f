use std::slice;

use tch::{Device, Tensor};

use super::{Counter, TorchError};

/// Whether the tensor's elements lie one after the other in the memory of the host.
pub(crate) fn is_flat_on_cpu(tensor: &Tensor) -> bool {
    tensor.device() == Device::Cpu && !tensor.is_sparse() && tensor.is_contiguous()
}

/// The size of the tensor's elements in bytes.
pub(crate) fn size_in_bytes(tensor: &Tensor) -> usize {
    tensor.numel() * tensor.kind().elt_size_in_bytes()
}

/// The bytes of a tensor that [is flat](is_flat_on_cpu).
pub(super) fn bytes_of(tensor: &Tensor) -> &[u8] {
    assert!(is_flat_on_cpu(tensor), "only such a tensor has its bytes in a row");
    match size_in_bytes(tensor) {
        0 => &[],
        // SAFETY: the memory is that of a live tensor, has this many initialized bytes in a row,
        // and is not written meanwhile: that takes another handle, and callers have none in use.
        length => unsafe { slice::from_raw_parts(tensor.data_ptr().cast(), length) },
    }
}

/// The bytes of a tensor that [is flat](is_flat_on_cpu), to be overwritten.
pub(super) fn bytes_of_mut(tensor: &mut Tensor) -> &mut [u8] {
    assert!(is_flat_on_cpu(tensor), "only such a tensor has its bytes in a row");
    match size_in_bytes(tensor) {
        0 => &mut [],
        // SAFETY: as in `bytes_of`; every pattern of bits is a value of each of libtorch's kinds,
        // but for `Bool`, whose callers write 0 and 1 alone.
        length => unsafe { slice::from_raw_parts_mut(tensor.data_ptr().cast(), length) },
    }
}

/// Calls `read` with the bytes of a tensor that [is flat](is_flat_on_cpu).
pub(crate) fn with_bytes<T>(tensor: &Tensor, read: impl FnOnce(&[u8]) -> T) -> T {
    read(bytes_of(tensor))
}

/// Calls `write` with the bytes of a tensor that [is flat](is_flat_on_cpu), to be overwritten.
/// Autograd takes that for a change of the tensor.
pub(crate) fn with_bytes_mut<T>(tensor: &mut Tensor, write: impl FnOnce(&mut [u8]) -> T) -> Result<T, TorchError> {
    let written = write(bytes_of_mut(tensor));
    Counter::of(tensor)?.bump()?;
    Ok(written)
}
