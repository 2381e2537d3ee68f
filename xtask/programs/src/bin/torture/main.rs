//! Does to pipelines what must not harm them, for `cargo xtask torture`, and counts what it did and
//! what was not as it should be.

#![forbid(unsafe_code)]

mod faults;
mod process;
mod soak;

use std::process::ExitCode;

use clap::Parser;

/// Does to pipelines what must not harm them
#[derive(Debug, Parser)]
enum Part {
    /// Steps with a fault at every op
    Faults {
        /// Tries only every so many-th fault
        #[arg(long, default_value = "1")]
        stride: usize,
    },
    /// A long training with random batches, failing steps, saves and loads
    Soak {
        /// Steps of the training
        #[arg(long, default_value = "10000")]
        steps: u64,
        /// Seed of what happens
        #[arg(long, default_value = "1")]
        seed: u64,
    },
}

fn main() -> ExitCode {
    tch::set_num_threads(1);
    let misses = match Part::parse() {
        Part::Faults { stride } => Ok(faults::run(stride)),
        Part::Soak { steps, seed } => soak::run(steps, seed),
    };
    match misses {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("torture: {error:#}");
            ExitCode::FAILURE
        }
    }
}
