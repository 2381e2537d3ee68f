//! The functions of NCCL, and the two of CUDA's driver that tell devices apart.

use std::error::Error;
use std::ffi::{CStr, OsStr, c_char, c_int, c_uint, c_void};
use std::mem::{self, ManuallyDrop};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use super::VARIABLE;
use crate::CommError;

/// The name that libtorch's CUDA part opens.
const NAME: &str = "libnccl.so.2";

/// CUDA's driver.
const DRIVER: &str = "libcuda.so.1";

/// `ncclSuccess`.
pub(super) const SUCCESS: c_int = 0;

/// `ncclInProgress`.
pub(super) const IN_PROGRESS: c_int = 7;

/// `ncclUint8`.
pub(super) const BYTES: c_int = 1;

/// `NCCL_UNIQUE_ID_BYTES`.
pub(super) const ID_BYTES: usize = 128;

/// The oldest version that has communicators whose functions do not wait: 2.14.
const OLDEST: c_int = 21400;

/// `ncclUniqueId`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct UniqueId(pub [u8; ID_BYTES]);

/// The part of `ncclConfig_t` that all versions have since 2.17. NCCL reads as much of it as `size`
/// says, and older versions less.
#[repr(C)]
pub(super) struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
    cga_cluster_size: c_int,
    min_ctas: c_int,
    max_ctas: c_int,
}

impl Config {
    /// A communicator whose functions do not wait, and whose kernels take at most `max_ctas` thread
    /// blocks: those of all communicators on a device must be able to run at the same time.
    pub(super) fn without_waiting(max_ctas: c_int) -> Self {
        Self {
            size: size_of::<Self>(),
            magic: 0xcafe_beef,
            version: 21700,
            blocking: 0,
            // "Not set".
            cga_cluster_size: c_int::MIN,
            min_ctas: c_int::MIN,
            max_ctas,
        }
    }
}

type DeviceGet = unsafe extern "C" fn(*mut c_int, c_int) -> c_int;
type DeviceUuid = unsafe extern "C" fn(*mut [u8; 16], c_int) -> c_int;

/// Declares a table of functions, and how to fill it from a library. Communicators are passed as
/// `usize`, and streams as pointers to nothing known.
macro_rules! functions {
    ($($field:ident = $symbol:literal($($argument:ty),*) -> $result:ty;)*) => {
        pub(super) struct Functions {
            /// The library's path, or its name if the system has found it.
            pub name: String,
            pub version: c_int,
            pub device_get: Option<DeviceGet>,
            pub device_uuid: Option<DeviceUuid>,
            $(pub $field: unsafe extern "C" fn($($argument),*) -> $result,)*
            /// It has threads of its own, so it is never closed.
            _library: ManuallyDrop<Library>,
        }

        impl Functions {
            fn of(library: Library, name: String) -> Result<Self, String> {
                let driver = driver();
                let either = |name: &CStr| address(&library, name).or_else(|| address(driver.as_ref()?, name));
                let found = |name: &CStr| {
                    address(&library, name).ok_or_else(|| format!("it has no {}", name.to_string_lossy()))
                };
                Ok(Self {
                    name,
                    version: 0,
                    // SAFETY: `cuda.h` declares the functions so.
                    device_get: either(c"cuDeviceGet").map(|at| unsafe { mem::transmute::<usize, DeviceGet>(at) }),
                    // SAFETY: as above.
                    device_uuid: either(c"cuDeviceGetUuid").map(|at| unsafe { mem::transmute::<usize, DeviceUuid>(at) }),
                    $(
                        // SAFETY: `nccl.h` declares the function so, in all versions.
                        $field: unsafe {
                            mem::transmute::<usize, unsafe extern "C" fn($($argument),*) -> $result>(found($symbol)?)
                        },
                    )*
                    _library: ManuallyDrop::new(library),
                })
            }
        }
    };
}

functions! {
    get_version = c"ncclGetVersion"(*mut c_int) -> c_int;
    get_unique_id = c"ncclGetUniqueId"(*mut UniqueId) -> c_int;
    comm_init_rank_config = c"ncclCommInitRankConfig"(*mut usize, c_int, UniqueId, c_int, *mut Config) -> c_int;
    comm_get_async_error = c"ncclCommGetAsyncError"(usize, *mut c_int) -> c_int;
    comm_abort = c"ncclCommAbort"(usize) -> c_int;
    send = c"ncclSend"(*const c_void, usize, c_int, c_int, usize, *mut c_void) -> c_int;
    recv = c"ncclRecv"(*mut c_void, usize, c_int, c_int, usize, *mut c_void) -> c_int;
    get_error_string = c"ncclGetErrorString"(c_int) -> *const c_char;
    get_last_error = c"ncclGetLastError"(usize) -> *const c_char;
}

impl Functions {
    /// Opens the library at the path `set`, or else the one that is in the process already, or the
    /// system's. Returns `None` if there is none.
    pub(super) fn open(set: Option<&OsStr>) -> Result<Option<Self>, CommError> {
        let unusable = |library: &str, reason: String| CommError::Unusable { library: library.to_owned(), reason };
        let (library, name) = match set {
            Some(path) => {
                let name = path.to_string_lossy().into_owned();
                let opened = open(path, RTLD_NOW | RTLD_LOCAL);
                let reason = |error: libloading::Error| {
                    let cause = error.source().map_or_else(|| error.to_string(), ToString::to_string);
                    format!("{cause}: set {VARIABLE} to another NCCL, or to `off`")
                };
                (opened.map_err(|error| unusable(&name, reason(error)))?, name)
            }
            None => match open(NAME.as_ref(), RTLD_NOW | RTLD_LOCAL) {
                Ok(library) => (library, NAME.to_owned()),
                Err(_) => return Ok(None),
            },
        };
        let mut functions = Self::of(library, name.clone()).map_err(|reason| unusable(&name, reason))?;
        // SAFETY: writes the version.
        let result = unsafe { (functions.get_version)(&raw mut functions.version) };
        functions.check("ncclGetVersion", result, 0)?;
        if functions.version < OLDEST && set.is_none() {
            return Ok(None);
        }
        if functions.version < OLDEST {
            let reason = format!("it is version {}, and 2.14 is the oldest that can be used", functions.version);
            return Err(unusable(&name, reason));
        }
        Ok(Some(functions))
    }
}

fn open(path: &OsStr, flags: c_int) -> Result<Library, libloading::Error> {
    // SAFETY: opening runs the library's initializers. Those of NCCL and of CUDA's driver may run
    // at any time, and in any thread.
    unsafe { Library::open(Some(path), flags) }
}

/// CUDA's driver, if there is one. It is in the process already where CUDA is used.
fn driver() -> Option<ManuallyDrop<Library>> {
    open(DRIVER.as_ref(), RTLD_NOW | RTLD_LOCAL).ok().map(ManuallyDrop::new)
}

/// The address of a symbol.
fn address(library: &Library, name: &CStr) -> Option<usize> {
    // SAFETY: the address is not used as that of any type here.
    let symbol = unsafe { library.get::<*mut c_void>(name.to_bytes_with_nul()) };
    symbol.ok().map(|symbol| symbol.as_raw_ptr() as usize).filter(|address| *address != 0)
}
