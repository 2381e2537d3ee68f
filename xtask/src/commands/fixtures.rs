//! `cargo xtask fixtures`: writes torch's own schedules to files, for the tests that read them. It
//! is not a test, because it needs some gigabytes more.

use std::process::ExitCode;

use anyhow::Context;

use crate::tools::checkout::Checkout;
use crate::tools::{cargo, environment};

pub fn run(checkout: &Checkout) -> anyhow::Result<ExitCode> {
    for (version, environment) in [("2.11", &environment::TORCHGPIPE), ("2.15", &environment::NEWEST_TORCH)] {
        let mut python = environment.python()?;
        python.arg(checkout.root.join("xtask/fixtures/dump.py")).arg(checkout.torchs_schedules().join(version));
        let status = python.status().with_context(|| format!("cannot start {}", python.get_program().display()))?;
        if !status.success() {
            return Ok(cargo::exit_code(status));
        }
    }
    Ok(ExitCode::SUCCESS)
}
