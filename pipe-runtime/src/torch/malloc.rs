// Links mimalloc, which the shim calls.
use libmimalloc_sys as _;

use super::ffi;

/// Makes the process keep the memory that CPU tensors free, and reuse it for later ones. From this
/// call on, [mimalloc](https://github.com/microsoft/mimalloc) allocates the memory of CPU tensors.
///
/// A training step allocates and frees the same sizes over and over. The C library returns large
/// blocks to the system and requests them again, and each fresh page costs a page fault: up to a
/// fifth of a step's time for medium-sized layers. mimalloc keeps its memory in large pages where
/// the system has them, and each thread allocates without a lock. In return, the process never
/// gives back the memory that tensors used at their peak. Nothing else changes.
///
/// Programs can call this at their start. This library never does, because the setting affects the
/// whole process.
pub fn keep_freed_memory() {
    // SAFETY: takes no arguments and cannot fail. Existing tensors keep the function that frees
    // their memory.
    unsafe { ffi::pipe_keep_freed_memory() }
}

#[cfg(test)]
mod tests {
    use std::ffi::{c_int, c_long, c_void};

    use tch::{Device, Kind, Tensor};

    use super::*;

    // SAFETY: the declarations match mimalloc's header. Both functions only read, and the first one
    // does not dereference its pointer.
    unsafe extern "C" {
        fn mi_is_in_heap_region(block: *const c_void) -> bool;
        fn mi_option_get(option: c_int) -> c_long;
    }

    /// The option's number in mimalloc 3's header, which the binding leaves out.
    const PURGE_DELAY: c_int = 15;

    #[test]
    fn tensors_lie_in_memory_that_is_never_given_back() {
        let tensor = || Tensor::ones([1 << 20], (Kind::Float, Device::Cpu));
        let before = tensor();
        keep_freed_memory();
        let after = tensor();
        // SAFETY: the address of a live tensor's memory, which is not dereferenced.
        assert!(unsafe { mi_is_in_heap_region(after.data_ptr()) });
        // SAFETY: a valid option number.
        assert_eq!(unsafe { mi_option_get(PURGE_DELAY) }, -1, "never");
        // The allocator that made the older tensor's memory also frees it.
        assert_eq!(f64::try_from((before + after).sum(Kind::Double)).unwrap(), f64::from(2 << 20));
    }
}
