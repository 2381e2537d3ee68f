// Linked for the shim, which calls it.
use libmimalloc_sys as _;

use super::ffi;

/// Lets the process keep the memory that tensors on the CPU free, for the next ones: from now on,
/// [mimalloc](https://github.com/microsoft/mimalloc) hands it out.
///
/// A training step allocates and frees the same sizes over and over. The C library hands large
/// blocks back to the system and takes them again, and each fresh page is a fault: up to a fifth of
/// a step's time for medium-sized layers. What mimalloc keeps is in large pages where the system
/// has them, and each thread takes its own without a lock. The price: what tensors have used at
/// their peak, the process keeps. Nothing else changes.
///
/// It is for programs to call, at their start; this library never does, since the setting is the
/// whole process's.
pub fn keep_freed_memory() {
    // SAFETY: no arguments; nothing in it fails. Tensors that are there already keep the function
    // that frees them.
    unsafe { ffi::pipe_keep_freed_memory() }
}

#[cfg(test)]
mod tests {
    use std::ffi::{c_int, c_long, c_void};

    use tch::{Device, Kind, Tensor};

    use super::*;

    // SAFETY: as in mimalloc's header; both only look, the first one at the number of an address.
    unsafe extern "C" {
        fn mi_is_in_heap_region(block: *const c_void) -> bool;
        fn mi_option_get(option: c_int) -> c_long;
    }

    /// Its number in mimalloc 3's header, which the binding leaves out.
    const PURGE_DELAY: c_int = 15;

    #[test]
    fn tensors_lie_in_memory_that_is_never_given_back() {
        let tensor = || Tensor::ones([1 << 20], (Kind::Float, Device::Cpu));
        let before = tensor();
        keep_freed_memory();
        let after = tensor();
        // SAFETY: the address of a live tensor's memory, of which only the number counts.
        assert!(unsafe { mi_is_in_heap_region(after.data_ptr()) });
        // SAFETY: an option's number.
        assert_eq!(unsafe { mi_option_get(PURGE_DELAY) }, -1, "never");
        // A tensor that was there before is freed by whoever made its memory.
        assert_eq!(f64::try_from((before + after).sum(Kind::Double)).unwrap(), f64::from(2 << 20));
    }
}
