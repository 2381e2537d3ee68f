//! Finds and opens an MPI library.

use std::env;
use std::error::Error;
use std::ffi::{CStr, OsString, c_int, c_void};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

use crate::CommError;
use crate::launcher::{Family, Launcher};

/// The variable that names the library, or a folder that contains it.
pub(super) const VARIABLE: &str = "PIPE_MPI";

const OPEN_MPI: &str = if cfg!(target_os = "macos") { "libmpi.40.dylib" } else { "libmpi.so.40" };
const MPICH: &str = if cfg!(target_os = "macos") { "libmpi.12.dylib" } else { "libmpi.so.12" };
const STANDARD: &str = if cfg!(target_os = "macos") { "libmpi_abi.1.dylib" } else { "libmpi_abi.so.1" };

/// An MPI library, which is never closed.
#[derive(Debug)]
pub(super) struct Opened {
    /// Its path, or its name if the system has found it.
    pub name: String,
    /// It has threads and exit handlers of its own.
    library: ManuallyDrop<Library>,
}

impl Opened {
    /// Opens the library that fits the launcher: a process of one MPI may abort, or take itself for
    /// the only one, below the launcher of another.
    pub(super) fn find(launcher: &Launcher) -> Result<Self, CommError> {
        let mut reasons = Vec::new();
        for path in candidates(launcher.family, env::var_os(VARIABLE)) {
            match Self::open(&path) {
                Ok(opened) => return Ok(opened),
                Err(reason) => reasons.push(reason),
            }
        }
        Err(CommError::Library { reasons: reasons.join("; ") })
    }

    fn open(path: &Path) -> Result<Self, String> {
        // SAFETY: opening runs the library's initializers. Those of MPI libraries may run at any
        // time, and in any thread. Plug-ins of Open MPI 4 need the library's symbols to be global.
        let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) };
        let library = library.map_err(|error| {
            // The cause is what the system says, with the path.
            error.source().map_or_else(|| error.to_string(), ToString::to_string)
        })?;
        Ok(Self { name: path.display().to_string(), library: ManuallyDrop::new(library) })
    }

    /// The address of a symbol.
    pub(super) fn address(&self, name: &CStr) -> Option<usize> {
        // SAFETY: the address is not used as that of any type here.
        let symbol = unsafe { self.library.get::<*mut c_void>(name.to_bytes_with_nul()) };
        symbol.ok().map(|symbol| symbol.as_raw_ptr() as usize).filter(|address| *address != 0)
    }

    /// The major version of the standard binary interface that the library has; -1 if it has
    /// another interface.
    pub(super) fn standard_version(&self) -> c_int {
        type GetVersion = unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int;
        // SAFETY: this is the declaration in the standard. The function may be called at any time.
        let function = unsafe { self.library.get::<GetVersion>(b"MPI_Abi_get_version\0") };
        let (mut major, mut minor) = (-1, -1);
        if let Ok(function) = function {
            // SAFETY: as above. Both pointers are valid. If the call fails, the values stay.
            unsafe { function(&raw mut major, &raw mut minor) };
        }
        major
    }
}

/// The libraries to try, in this order.
fn candidates(family: Family, set: Option<OsString>) -> Vec<PathBuf> {
    let (fitting, other): (&[&str], &[&str]) = match family {
        Family::OpenMpi => (&[OPEN_MPI], &[MPICH, STANDARD]),
        Family::Mpich => (&[MPICH, STANDARD], &[OPEN_MPI]),
        Family::Unknown => (&[OPEN_MPI, MPICH, STANDARD], &[]),
    };
    let Some(set) = set.filter(|set| !set.is_empty()).map(PathBuf::from) else {
        return fitting.iter().map(PathBuf::from).collect();
    };
    if !set.is_dir() {
        return vec![set];
    }
    // A library in the user's folder that does not fit gives a clearer error than none.
    let names = fitting.iter().chain(other);
    let folders = [set.join("lib"), set.join("lib64"), set.clone()];
    let paths: Vec<_> = names.flat_map(|name| folders.iter().map(move |folder| folder.join(name))).collect();
    let existing: Vec<_> = paths.iter().filter(|path| path.exists()).cloned().collect();
    if existing.is_empty() { paths.into_iter().take(1).collect() } else { existing }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_the_variable_the_launcher_decides() {
        let names = |family| candidates(family, None);
        assert_eq!(names(Family::OpenMpi), [Path::new(OPEN_MPI)]);
        assert_eq!(names(Family::Mpich), [Path::new(MPICH), Path::new(STANDARD)]);
    }

    #[test]
    fn the_variable_names_a_file() {
        assert_eq!(candidates(Family::Mpich, Some("/x/libmpi.so".into())), [Path::new("/x/libmpi.so")]);
        assert_eq!(candidates(Family::OpenMpi, Some("".into())), [Path::new(OPEN_MPI)]);
    }
}
