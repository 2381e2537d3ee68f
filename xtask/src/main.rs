//! The project's own commands, run as `cargo xtask <command>`.

#![forbid(unsafe_code)]

mod commands;
mod tools;

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::commands::{
    bench, book, data, demo, fixtures, fuzz, gpu_check, libtorch, minilm, mpi, new, oracle, pairs, published, test,
    torture,
};
use crate::tools::checkout::Checkout;
use crate::tools::libtorch::Flavour;

/// Sets up, tries out and tests this project.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Makes the libtorch that this tch needs available to the build, installing it if need be
    Libtorch {
        /// Does so for the crate in this folder and its tch instead of this checkout
        #[arg(long = "for", value_name = "DIR")]
        user: Option<PathBuf>,
        /// Installs the libraries that CUDA devices need as well
        #[arg(long)]
        cuda: bool,
    },
    /// Makes a crate that depends on this checkout, builds and trains
    New {
        /// The folder to make it in, which gives the crate its name
        folder: PathBuf,
        /// The version of tch; by default the latest tested one
        #[arg(long, value_name = "VERSION")]
        tch: Option<String>,
    },
    /// Fetches the handwritten digits that the demo learns
    Data,
    /// Installs Open MPI and MPICH, for pipelines over several processes
    Mpi,
    /// Trains a pipelined network on the handwritten digits
    Demo {
        /// Runs it in this many processes
        #[arg(long, value_name = "NUMBER")]
        processes: Option<NonZeroUsize>,
        /// Passed on to the demo
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Fetches a pretrained sentence encoder, compares it with Python's, and trains adapters in it
    Minilm {
        /// Passed on to the example
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Checks pipelines on this machine's GPUs
    GpuCheck {
        /// Makes a folder that runs the checks on a machine that only has libtorch
        #[arg(long, value_name = "DIR")]
        bundle: Option<PathBuf>,
        /// Passed on to the program
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Compares with torchgpipe, installing it if need be
    Oracle,
    /// Writes torch's own schedules to files for the tests, installing torch if need be
    Fixtures,
    /// Measures speed and memory beside torchgpipe's and torch's own pipelines', installing them if
    /// need be
    Bench(bench::Options),
    /// Measures the models of torchgpipe's benchmarks, and simulates their steps on 2, 4 and 8
    /// devices
    Published {
        /// Passed on to the program
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Builds the book, `docs`, as a website
    Book,
    /// Runs all tests with each pair of tch and libtorch, and records what passed
    Pairs {
        /// Only with these libtorches
        #[arg(long, value_name = "VERSION")]
        only: Vec<String>,
    },
    /// Makes pipelines fail in every way, trains for long, and kills saves and processes
    Torture {
        /// Takes hours instead of minutes
        #[arg(long)]
        long: bool,
    },
    /// Runs what reads outside input on inputs that coverage finds, by cargo-fuzz
    Fuzz {
        /// Only this target
        target: Option<String>,
        /// Minutes for each
        #[arg(long, default_value = "10")]
        minutes: u64,
    },
    /// Runs all tests
    Test {
        /// Rewrites the expected outputs to the actual ones
        #[arg(long, conflicts_with = "tch")]
        bless: bool,
        /// Runs them with this tch, in a copy of the checkout below `target`
        #[arg(long, value_name = "VERSION")]
        tch: Option<String>,
        /// Uses this libtorch instead of the one that the tch is made for
        #[arg(long, value_name = "VERSION", requires = "tch")]
        libtorch: Option<String>,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    let checkout = Checkout::find();
    match command {
        Command::Libtorch { cuda, user } => {
            let flavour = if cuda { Flavour::Cuda } else { Flavour::Cpu };
            libtorch::run(&checkout, flavour, user.as_deref())
        }
        Command::New { folder, tch } => new::run(&checkout, &folder, tch.as_deref()),
        Command::Data => data::run(&checkout),
        Command::Mpi => mpi::run(),
        Command::Demo { processes, args } => demo::run(&checkout, processes.map(NonZeroUsize::get), &args),
        Command::Minilm { args } => minilm::run(&checkout, &args),
        Command::GpuCheck { bundle, args } => gpu_check::run(&checkout, bundle.as_deref(), &args),
        Command::Oracle => oracle::run(&checkout),
        Command::Fixtures => fixtures::run(&checkout),
        Command::Bench(options) => bench::run(&checkout, &options),
        Command::Published { args } => published::run(&checkout, &args),
        Command::Book => book::run(&checkout),
        Command::Pairs { only } => pairs::run(&checkout, &only),
        Command::Fuzz { target, minutes } => fuzz::run(&checkout, target.as_deref(), minutes),
        Command::Torture { long } => torture::run(&checkout, long),
        Command::Test { bless, tch: None, .. } => test::run(&checkout, bless),
        Command::Test { tch: Some(tch), libtorch, .. } => {
            test::run_trial(&checkout, &pairs::Trial::new(&tch, libtorch.as_deref())?)
        }
    }
}
