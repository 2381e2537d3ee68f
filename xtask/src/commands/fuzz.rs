//! `cargo xtask fuzz`: inputs that coverage finds, by cargo-fuzz, for what reads outside input.

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, bail};

use crate::tools::checkout::Checkout;
use crate::tools::libtorch::Flavour;
use crate::tools::{cargo, libtorch};

/// What is fuzzed: the target, the folders of its first inputs, and the greatest length of one.
const TARGETS: [(&str, &[&str], u32); 8] = [
    ("schedule", &["pipe-runtime/schedule/tests/pytorch"], 1000),
    ("attribute", &["ui-tests/cases"], 4000),
    ("layers", &[], 400),
    ("flow", &["xtask/fuzz/seeds/flow"], 1000),
    ("balance_file", &["xtask/programs/balance", "tests/balance"], 1500),
    ("safetensors", &["xtask/fuzz/seeds/safetensors"], 1000),
    ("checkpoint", &[], 300),
    ("message", &["xtask/fuzz/seeds/message"], 2000),
];

pub fn run(checkout: &Checkout, only: Option<&str>, minutes: u64) -> anyhow::Result<ExitCode> {
    let installed = cargo::command(checkout).args(["fuzz", "--version"]).output().context(cargo::CANNOT_START)?;
    if !installed.status.success() {
        bail!("cargo-fuzz is not installed: run `cargo install cargo-fuzz`");
    }
    let targets: Vec<_> = TARGETS.into_iter().filter(|(name, ..)| only.is_none_or(|only| only == *name)).collect();
    if let (Some(only), true) = (only, targets.is_empty()) {
        bail!("there is no target `{only}`: the targets are {}", TARGETS.map(|(name, ..)| name).join(", "));
    }
    libtorch::set_up(checkout, Flavour::Cpu)?;
    let folder = checkout.root.join("xtask/fuzz");
    for (name, seeds, length) in targets {
        let found = checkout.root.join("target/fuzz/corpus").join(name);
        fs::create_dir_all(&found).with_context(|| format!("cannot create {}", found.display()))?;
        let mut fuzz = cargo::command(checkout);
        // What reads the inputs is safe code, up to the calls of libtorch, so no sanitizer slows it
        // down. Overflows panic.
        // To watch each comparison would take half of the time; words in a dictionary do as well.
        fuzz.args(["fuzz", "run", "--sanitizer", "none", "--no-trace-compares", "--fuzz-dir"]).arg(&folder);
        fuzz.arg("--target-dir").arg(checkout.root.join("target/fuzz")).arg(name).arg(&found);
        fuzz.args(seeds.iter().map(|seeds| checkout.root.join(seeds))).arg("--");
        fuzz.args([format!("-max_total_time={}", minutes * 60), format!("-max_len={length}")]);
        // An input that is slow is a fault, too. Each target sets a limit on memory.
        fuzz.args(["-timeout=10", "-print_final_stats=1"]);
        if seeds.is_empty() {
            // libFuzzer would take long to get from nothing to inputs of some length.
            fuzz.arg("-len_control=0");
        }
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
