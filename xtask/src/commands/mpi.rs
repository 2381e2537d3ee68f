//! `cargo xtask mpi`: installs Open MPI and MPICH.

use std::process::ExitCode;

use crate::tools::mpi::{MPICH, OPEN_MPI};

pub fn run() -> anyhow::Result<ExitCode> {
    let open_mpi = OPEN_MPI.set_up()?;
    let mpich = MPICH.set_up()?;
    println!("Open MPI is ready: {}/bin/mpiexec", open_mpi.display());
    println!("MPICH is ready: {}/bin/mpiexec (set PIPE_MPI={} for the program)", mpich.display(), mpich.display());
    Ok(ExitCode::SUCCESS)
}
