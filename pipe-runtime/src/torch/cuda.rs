use std::ffi::CStr;

use super::ffi;

/// Why CUDA is unavailable although the machine has its driver. `None` if CUDA is available or the
/// machine has no driver.
///
/// If there is a driver, the shim opens `libtorch_cuda` before `main`.
pub(crate) fn cuda_fault() -> Option<String> {
    // SAFETY: NUL-terminated, written before `main` and never changed.
    let fault = unsafe { CStr::from_ptr(ffi::pipe_cuda_fault()) }.to_string_lossy();
    (!fault.is_empty()).then(|| fault.into_owned())
}
