//! Starts processes below the launchers that `cargo xtask mpi` installs.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// An installed MPI, and how it is started.
// Other test programs share this file, and start fewer of them.
#[allow(dead_code)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Launcher {
    OpenMpi,
    /// With `--with-ft ulfm`: a process that is lost is an error in the others.
    Ulfm,
    Mpich,
    /// MPICH's library with the standard binary interface.
    Standard,
}

pub use Launcher::{Mpich, OpenMpi, Standard, Ulfm};

impl Launcher {
    /// The folder in which `cargo xtask mpi` installs it.
    pub fn home(self) -> PathBuf {
        let (name, library) = match self {
            OpenMpi | Ulfm => ("openmpi-5.0.11", "libmpi.so.40"),
            Mpich | Standard => ("mpich-5.0.2", "libmpi.so.12"),
        };
        let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
        let home = cache.expect("HOME is set").join("pipe-mpi").join(name);
        assert!(home.join("lib").join(library).is_file(), "there is no {}: run `cargo xtask mpi`", home.display());
        home
    }

    /// Compiles a C program with the compiler of this MPI.
    #[allow(dead_code)]
    pub fn compile(self, source: &Path, program: &Path) {
        let home = self.home();
        let mut command = Command::new(home.join("bin/mpicc"));
        command.arg(format!("-Wl,-rpath,{}", home.join("lib").display()));
        command.args(["-O2", "-o"]).arg(program).arg(source);
        let status = command.status().expect("`mpicc` can be started");
        assert!(status.success(), "{command:?}: {status}");
    }

    /// A command that runs a program in this many processes, for `seconds` at most.
    pub fn command(self, processes: usize, seconds: u32, program: &Path) -> Command {
        let home = self.home();
        let mut command = Command::new("timeout");
        command.args(["--kill-after=2", &seconds.to_string()]).arg(home.join("bin/mpiexec"));
        command.stdin(Stdio::null());
        match self {
            OpenMpi | Ulfm => {
                // It runs as root only if it is told twice. One of its networks takes a second to
                // end. More processes than cores are refused otherwise, and each is bound to one.
                command.envs([
                    ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
                    ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
                    ("OMPI_MCA_btl", "^ofi"),
                ]);
                command.args(["--oversubscribe", "--bind-to", "none"]);
                if self == Ulfm {
                    command.args(["--with-ft", "ulfm"]);
                }
            }
            // Its launcher does not say where the library is.
            Mpich => drop(command.env("PIPE_MPI", home)),
            Standard => drop(command.env("PIPE_MPI", home.join("lib/libmpi_abi.so.1"))),
        }
        command.args(["-n", &processes.to_string()]).arg(program);
        command
    }
}
