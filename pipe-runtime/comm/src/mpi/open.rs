//! The beginning of MPI.

use std::env;
use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use super::abi::{Abi, AbiKind};
use super::end::FAREWELL;
use super::functions::Functions;
use super::library::Opened;
use super::world::{World, text};
use crate::CommError;
use crate::launcher::{Family, Launcher};

impl World {
    /// Opens and initializes the MPI of the launcher, together with the other processes.
    pub(crate) fn open(launcher: &Launcher) -> Result<Self, CommError> {
        let library = Opened::find(launcher)?;
        let unusable = |reason: String| CommError::Unusable { library: library.name.clone(), reason };
        let abi = Abi::of(&library).ok_or_else(|| unusable("symbols of Open MPI are missing".into()))?;
        if abi.kind != AbiKind::OpenMpi && launcher.family == Family::OpenMpi && launcher.trace.starts_with("OMPI") {
            // MPICH would abort.
            return Err(CommError::Launcher { library: library.name.clone(), launcher: launcher.trace.clone() });
        }
        let functions = Functions::of(&library).map_err(unusable)?;
        let mut world = Self {
            rank: 0,
            size: 1,
            version: version(&functions),
            // Open MPI's `mpiexec --with-ft ulfm` sets the variable.
            survives_losses: abi.kind == AbiKind::OpenMpi
                && functions.revoke.is_some()
                && env::var("OMPI_MCA_mpi_ft_enable").is_ok_and(|value| value == "1"),
            functions,
            communicator: abi.comm_world,
            goodbyes: abi.comm_world,
            knows_of_losses: AtomicBool::new(false),
            abi,
            state: Mutex::default(),
            library,
        };
        world.initialize()?;
        if let Err(error) = world.join(launcher) {
            // Otherwise, the launcher would complain about the end of the process as well.
            let _ = world.end();
            return Err(error);
        }
        Ok(world)
    }

    fn initialize(&self) -> Result<(), CommError> {
        let (mut initialized, mut given) = (0, 0);
        // SAFETY: the pointer is valid. The function may be called at any time.
        self.check("MPI_Initialized", None, unsafe { (self.functions.initialized)(&raw mut initialized) })?;
        if initialized != 0 {
            return Err(self.unusable("another part of this program has initialized it"));
        }
        // SAFETY: MPI is not initialized. It allows null for the arguments of the program.
        let code = unsafe {
            (self.functions.init_thread)(ptr::null_mut(), ptr::null_mut(), self.abi.thread_serialized, &raw mut given)
        };
        self.check("MPI_Init_thread", None, code)?;
        if given < self.abi.thread_serialized {
            let _ = self.end();
            return Err(self.unusable("only one thread may call it"));
        }
        Ok(())
    }

    /// Makes the communicator, and compares what MPI and the launcher say.
    fn join(&mut self, launcher: &Launcher) -> Result<(), CommError> {
        let Abi { comm_world, comm_self, errors_return, tag_bound, .. } = self.abi;
        for communicator in [comm_world, comm_self] {
            // SAFETY: MPI is initialized, and these are predefined handles.
            let code = unsafe { (self.functions.comm_set_errhandler)(communicator, errors_return) };
            self.check("MPI_Comm_set_errhandler", None, code)?;
        }
        let (mut rank, mut size) = (0, 0);
        // SAFETY: MPI is initialized, the handle is predefined, the pointer is valid.
        self.check("MPI_Comm_rank", None, unsafe { (self.functions.comm_rank)(comm_world, &raw mut rank) })?;
        // SAFETY: as above.
        self.check("MPI_Comm_size", None, unsafe { (self.functions.comm_size)(comm_world, &raw mut size) })?;
        (self.rank, self.size) = (rank as usize, size as usize);
        if launcher.size.is_some_and(|expected| expected != self.size) {
            let said = format!("{}, but the library knows of {} process(es)", launcher.trace, self.size);
            return Err(CommError::Launcher { library: self.named(), launcher: said });
        }

        let mut bound: *const c_int = ptr::null();
        let mut is_set = 0;
        let place: *mut c_void = (&raw mut bound).cast();
        // SAFETY: MPI is initialized. It writes a pointer to an `int` that lives as long as MPI.
        let code = unsafe { (self.functions.comm_get_attr)(comm_world, tag_bound, place, &raw mut is_set) };
        self.check("MPI_Comm_get_attr", None, code)?;
        // SAFETY: as above.
        if is_set == 0 || bound.is_null() || unsafe { *bound } < FAREWELL {
            return Err(self.unusable("it has too few tags"));
        }

        self.communicator = self.duplicate(comm_world)?;
        if self.survives_losses {
            self.goodbyes = self.duplicate(comm_world)?;
        }
        Ok(())
    }

    /// Makes a communicator of the same processes, which all come here.
    fn duplicate(&self, communicator: usize) -> Result<usize, CommError> {
        let mut duplicate = 0;
        // SAFETY: MPI is initialized, and all processes come here.
        let code = unsafe { (self.functions.comm_dup)(communicator, &raw mut duplicate) };
        self.check("MPI_Comm_dup", None, code)?;
        // SAFETY: MPI is initialized, and the communicator is valid.
        let code = unsafe { (self.functions.comm_set_errhandler)(duplicate, self.abi.errors_return) };
        self.check("MPI_Comm_set_errhandler", None, code)?;
        Ok(duplicate)
    }
}

/// The first line of the library's version.
fn version(functions: &Functions) -> String {
    // SAFETY: the buffer is longer than any version. The function may be called at any time.
    let text = text(|bytes, length| unsafe { (functions.get_library_version)(bytes, length) });
    text.lines().next().unwrap_or_default().trim().to_owned()
}
