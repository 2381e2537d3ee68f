use super::ffi;

/// Lets the process keep the memory that tensors on the CPU free, for the next ones. Returns whether the C library can be told so (glibc can).
///
/// A training step allocates and frees the same sizes over and over. glibc hands large blocks back to the system and takes them anew, and each fresh page is a
/// fault: up to a fifth of a step's time for medium-sized layers, more with more threads. The price: what the process has used at its peak, it keeps. Nothing else changes.
///
/// It is for programs to call, once, at their start; this library never does, since the setting is the whole process's.
pub fn keep_freed_memory() -> bool {
    // SAFETY: no arguments; sets numbers in the C library.
    unsafe { ffi::pipe_keep_freed_memory() != 0 }
}
