// Linked for the shim, which calls it.
use libmimalloc_sys as _;

use super::ffi;

/// Lets the process keep the memory that tensors on the CPU free, for the next ones: from now on, [mimalloc](https://github.com/microsoft/mimalloc) hands it out.
///
/// A training step allocates and frees the same sizes over and over. The C library hands large blocks back to the system and takes them anew, and each fresh page is a
/// fault: up to a fifth of a step's time for medium-sized layers. What mimalloc keeps is in large pages where the system has them, and each thread takes its own
/// without a lock. The price: what tensors have used at their peak, the process keeps. Nothing else changes.
///
/// It is for programs to call, at their start; this library never does, since the setting is the whole process's.
pub fn keep_freed_memory() {
    // SAFETY: no arguments; nothing in it fails. Tensors that are there already keep the function that frees them.
    unsafe { ffi::pipe_keep_freed_memory() }
}
