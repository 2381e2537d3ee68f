//! The functions of MPI.

use std::ffi::{c_char, c_int, c_void};
use std::mem;

use super::abi::Status;
use super::library::Opened;

/// Declares a table of functions, and how to fill it from a library.
macro_rules! functions {
    ($($field:ident = $symbol:literal($($argument:ty),*);)*) => {
        #[derive(Clone, Copy, Debug)]
        pub(super) struct Functions {
            $(pub $field: unsafe extern "C" fn($($argument),*) -> c_int,)*
            /// Exists where lost processes can be survived.
            pub revoke: Option<unsafe extern "C" fn(usize) -> c_int>,
        }

        impl Functions {
            /// Finds all functions. The error is the name of a missing one.
            pub(super) fn of(library: &Opened) -> Result<Self, String> {
                let find = |name: &std::ffi::CStr| {
                    library.address(name).ok_or_else(|| format!("it has no {}", name.to_string_lossy()))
                };
                Ok(Self {
                    $(
                        // SAFETY: the standard declares this function so. Handles are passed as
                        // `usize`, see the module `mpi`.
                        $field: unsafe { mem::transmute::<usize, unsafe extern "C" fn($($argument),*) -> c_int>(find($symbol)?) },
                    )*
                    revoke: library.address(c"MPIX_Comm_revoke").map(|address| {
                        // SAFETY: `mpiext_ftmpi_c.h` declares this function so.
                        unsafe { mem::transmute::<usize, unsafe extern "C" fn(usize) -> c_int>(address) }
                    }),
                })
            }
        }
    };
}

functions! {
    initialized = c"MPI_Initialized"(*mut c_int);
    init_thread = c"MPI_Init_thread"(*mut c_int, *mut *mut *mut c_char, c_int, *mut c_int);
    finalize = c"MPI_Finalize"();
    abort = c"MPI_Abort"(usize, c_int);
    get_library_version = c"MPI_Get_library_version"(*mut c_char, *mut c_int);
    comm_rank = c"MPI_Comm_rank"(usize, *mut c_int);
    comm_size = c"MPI_Comm_size"(usize, *mut c_int);
    comm_dup = c"MPI_Comm_dup"(usize, *mut usize);
    comm_set_errhandler = c"MPI_Comm_set_errhandler"(usize, usize);
    comm_get_attr = c"MPI_Comm_get_attr"(usize, c_int, *mut c_void, *mut c_int);
    error_class = c"MPI_Error_class"(c_int, *mut c_int);
    error_string = c"MPI_Error_string"(c_int, *mut c_char, *mut c_int);
    isend = c"MPI_Isend"(*const c_void, c_int, usize, c_int, c_int, usize, *mut usize);
    irecv = c"MPI_Irecv"(*mut c_void, c_int, usize, c_int, c_int, usize, *mut usize);
    test = c"MPI_Test"(*mut usize, *mut c_int, *mut Status);
    iprobe = c"MPI_Iprobe"(c_int, c_int, usize, *mut c_int, *mut Status);
    cancel = c"MPI_Cancel"(*mut usize);
    get_count = c"MPI_Get_count"(*const Status, usize, *mut c_int);
    iallgather = c"MPI_Iallgather"(*const c_void, c_int, usize, *mut c_void, c_int, usize, usize, *mut usize);
    ibcast = c"MPI_Ibcast"(*mut c_void, c_int, usize, c_int, usize, *mut usize);
}
