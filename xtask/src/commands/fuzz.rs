//! `cargo xtask fuzz`: inputs that coverage finds, by cargo-fuzz, for what reads text and tokens.

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, bail};

use crate::tools::cargo;
use crate::tools::checkout::Checkout;

/// What is fuzzed: the target, the folder of its first inputs, and the length of an input at most.
const TARGETS: [(&str, &str, u32); 2] =
    [("schedule", "pipe-runtime/schedule/tests/pytorch", 1000), ("attribute", "ui-tests/cases", 4000)];

pub fn run(checkout: &Checkout, only: Option<&str>, minutes: u64) -> anyhow::Result<ExitCode> {
    let installed = cargo::command(checkout).args(["fuzz", "--version"]).output().context(cargo::CANNOT_START)?;
    if !installed.status.success() {
        bail!("cargo-fuzz is not installed: run `cargo install cargo-fuzz`");
    }
    let targets: Vec<_> = TARGETS.into_iter().filter(|(name, ..)| only.is_none_or(|only| only == *name)).collect();
    if let (Some(only), true) = (only, targets.is_empty()) {
        bail!("there is no target `{only}`: the targets are {}", TARGETS.map(|(name, ..)| name).join(", "));
    }
    let folder = checkout.root.join("xtask/fuzz");
    for (name, seeds, length) in targets {
        let found = checkout.root.join("target/fuzz/corpus").join(name);
        fs::create_dir_all(&found).with_context(|| format!("cannot create {}", found.display()))?;
        let mut fuzz = cargo::command(checkout);
        // None of these crates has unsafe code, so no sanitizer slows them down. Overflows panic.
        fuzz.args(["fuzz", "run", "--sanitizer", "none", "--fuzz-dir"]).arg(&folder).arg("--target-dir");
        fuzz.arg(checkout.root.join("target/fuzz")).arg(name).arg(&found).arg(checkout.root.join(seeds)).arg("--");
        fuzz.args([format!("-max_total_time={}", minutes * 60), format!("-max_len={length}")]);
        // An input that is slow, or for which much memory is allocated, is a fault, too.
        fuzz.args(["-timeout=10", "-malloc_limit_mb=256", "-print_final_stats=1"]);
        let words = folder.join("targets").join(name).with_extension("dict");
        if words.exists() {
            fuzz.arg(format!("-dict={}", words.display()));
        }
        // The compiler of `rust-toolchain.toml` is a stable one, and coverage wants unstable flags.
        let status = fuzz.env("RUSTC_BOOTSTRAP", "1").status().context(cargo::CANNOT_START)?;
        if !status.success() {
            return Ok(cargo::exit_code(status));
        }
    }
    Ok(ExitCode::SUCCESS)
}
