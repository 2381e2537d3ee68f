// Links mimalloc, which the shim calls.
use libmimalloc_sys as _;

use super::ffi;

/// Makes the process keep the memory that CPU tensors free, for later tensors: from now on,
/// [mimalloc](https://github.com/microsoft/mimalloc) allocates it.
///
/// A training step allocates and frees the same sizes again and again. The C library returns large
/// blocks to the system and allocates them again, and each fresh page is a fault: up to a fifth of
/// a step's time for medium-sized layers. mimalloc keeps memory in large pages, if the system has
/// them, and each thread allocates without a lock. The price is that the process keeps the memory
/// that tensors used at their peak. Nothing else changes.
///
/// Programs should call it at their start. This library never calls it, because the setting is that
/// of the whole process.
pub fn keep_freed_memory() {
    // SAFETY: it takes no arguments, and nothing in it fails. Existing tensors keep the function
    // that frees them.
    unsafe { ffi::pipe_keep_freed_memory() }
}

#[cfg(test)]
mod tests {
    use std::ffi::{c_int, c_long, c_void};

    use tch::{Device, Kind, Tensor};

    use super::*;

    // SAFETY: declared as in mimalloc's header. Both only read, and the first one does not
    // dereference the address.
    unsafe extern "C" {
        fn mi_is_in_heap_region(block: *const c_void) -> bool;
        fn mi_option_get(option: c_int) -> c_long;
    }

    /// The numbers of the options in mimalloc 3's header, which the binding leaves out.
    const PURGE_DELAY: c_int = 15;
    const DESTROY_ON_EXIT: c_int = 22;

    #[test]
    fn nothing_is_collected_when_the_program_ends() {
        // SAFETY: the number of an option that exists.
        assert_eq!(unsafe { mi_option_get(DESTROY_ON_EXIT) }, 2, "more than 1: nothing happens");
    }

    #[test]
    fn tensors_lie_in_memory_that_is_never_given_back() {
        let tensor = || Tensor::ones([1 << 20], (Kind::Float, Device::Cpu));
        let before = tensor();
        keep_freed_memory();
        let after = tensor();
        // SAFETY: the address of a live tensor's memory, which is not dereferenced.
        assert!(unsafe { mi_is_in_heap_region(after.data_ptr()) });
        // SAFETY: the number of an option that exists.
        assert_eq!(unsafe { mi_option_get(PURGE_DELAY) }, -1, "never");
        // A tensor that existed before is freed by the allocator that made it.
        assert_eq!(f64::try_from((before + after).sum(Kind::Double)).unwrap(), f64::from(2 << 20));
    }
}
