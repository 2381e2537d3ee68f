//! What can be sent and received.

use std::sync::Arc;

/// A value whose bytes can be sent.
///
/// The value is moved into an allocation of its own before its bytes are asked for, once. Nothing
/// touches it until MPI no longer reads them. So the address of the bytes may depend on that of the
/// value.
///
/// # Safety
///
/// As long as the value exists and is not touched, the bytes stay at their address, and nobody
/// writes them. A type that shares its memory, as tensors do, cannot promise that by itself:
/// whoever implements this for it makes sure of it.
pub unsafe trait Bytes: Send + 'static {
    /// The bytes.
    fn bytes(&self) -> &[u8];
}

/// A value into which bytes can be received.
///
/// The value is moved into an allocation of its own before its bytes are asked for, once. Nothing
/// touches it until MPI no longer writes them. So the address of the bytes may depend on that of
/// the value.
///
/// # Safety
///
/// As long as the value exists and is not touched, the bytes stay at their address, and nobody else
/// reads or writes them.
pub unsafe trait BytesMut: Send + 'static {
    /// The bytes, all of which are overwritten.
    fn bytes_mut(&mut self) -> &mut [u8];
}

// SAFETY: the bytes are on the heap, and belong to the value alone.
unsafe impl Bytes for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }
}

// SAFETY: the bytes are on the heap, and belong to the value alone.
unsafe impl Bytes for Box<[u8]> {
    fn bytes(&self) -> &[u8] {
        self
    }
}

// SAFETY: the bytes are on the heap, and nobody can write what is shared.
unsafe impl Bytes for Arc<[u8]> {
    fn bytes(&self) -> &[u8] {
        self
    }
}

// SAFETY: the bytes are on the heap, and belong to the value alone.
unsafe impl BytesMut for Vec<u8> {
    fn bytes_mut(&mut self) -> &mut [u8] {
        self
    }
}

// SAFETY: the bytes are on the heap, and belong to the value alone.
unsafe impl BytesMut for Box<[u8]> {
    fn bytes_mut(&mut self) -> &mut [u8] {
        self
    }
}

/// Bytes, and something that is dropped with them: whoever sends or receives learns when MPI no
/// longer uses the bytes, also if that is after the send or receive itself was dropped.
// SAFETY: the bytes are on the heap, and belong to the value alone.
unsafe impl<T: Send + 'static> Bytes for (Vec<u8>, T) {
    fn bytes(&self) -> &[u8] {
        &self.0
    }
}

// SAFETY: as above.
unsafe impl<T: Send + 'static> BytesMut for (Vec<u8>, T) {
    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}
