//! Open MPI's functions, called as C would.

use std::ffi::{c_int, c_void};
use std::ptr;

use libloading::os::unix::Library;

type Isend = unsafe extern "C" fn(*const c_void, c_int, usize, c_int, c_int, usize, *mut usize) -> c_int;
type Irecv = unsafe extern "C" fn(*mut c_void, c_int, usize, c_int, c_int, usize, *mut usize) -> c_int;
type Test = unsafe extern "C" fn(*mut usize, *mut c_int, *mut c_void) -> c_int;

/// The functions, and the handles of the world and of bytes.
pub struct Raw {
    isend: Isend,
    irecv: Irecv,
    test: Test,
    world: usize,
    byte: usize,
}

impl Raw {
    /// Finds the functions of the Open MPI that is initialized.
    pub fn of_open_mpi() -> Result<Self, libloading::Error> {
        // SAFETY: the library is open, and the declarations are those of the standard.
        unsafe {
            let library = Library::new("libmpi.so.40")?;
            let raw = Self {
                isend: *library.get(b"MPI_Isend\0")?,
                irecv: *library.get(b"MPI_Irecv\0")?,
                test: *library.get(b"MPI_Test\0")?,
                world: library.get::<*mut c_void>(b"ompi_mpi_comm_world\0")?.as_raw_ptr() as usize,
                byte: library.get::<*mut c_void>(b"ompi_mpi_byte\0")?.as_raw_ptr() as usize,
            };
            Ok(raw)
        }
    }

    /// Sends to a process.
    pub fn send(&self, to: usize, bytes: &[u8]) {
        let mut request = 0;
        let (start, count) = (bytes.as_ptr().cast(), bytes.len() as c_int);
        // SAFETY: MPI is initialized, and the bytes are borrowed until they are sent.
        unsafe { (self.isend)(start, count, self.byte, to as c_int, 1, self.world, &raw mut request) };
        self.wait(request);
    }

    /// Receives from a process.
    pub fn receive(&self, from: usize, bytes: &mut [u8]) {
        let mut request = 0;
        let (start, count) = (bytes.as_mut_ptr().cast(), bytes.len() as c_int);
        // SAFETY: MPI is initialized, and the bytes are borrowed until they have arrived.
        unsafe { (self.irecv)(start, count, self.byte, from as c_int, 1, self.world, &raw mut request) };
        self.wait(request);
    }

    fn wait(&self, mut request: usize) {
        let mut is_done = 0;
        while is_done == 0 {
            // SAFETY: the request is active. Null means that no status is wanted.
            unsafe { (self.test)(&raw mut request, &raw mut is_done, ptr::null_mut()) };
        }
    }
}
