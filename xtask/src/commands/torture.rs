//! `cargo xtask torture`: faults at every op and allocation, a long training, killed saves and
//! processes, valgrind and the thread sanitizer, with counts of what was not as it should be.
//! `docs/reliability.md` has the figures.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::Context;

use crate::tools::checkout::Checkout;
use crate::tools::libtorch::Flavour;
use crate::tools::{cargo, libtorch, mpi};

/// The test that kills processes of a training, whose number is in this variable.
const KILLS: &str = "PIPE_KILLS";
const KILLING: &str = "losses::trainings_that_are_killed_again_and_again_end_as_one_that_is_not";

/// How much is done.
struct Extent {
    stride: &'static str,
    steps: &'static str,
    /// One of so many allocations fails.
    allocations: &'static str,
    kills: &'static str,
}

const MINUTES: Extent = Extent { stride: "7", steps: "10000", allocations: "64", kills: "20" };
const HOURS: Extent = Extent { stride: "1", steps: "200000", allocations: "1", kills: "300" };

/// Tests that valgrind runs: the shim's own, and those in which steps fail. They take 20 to 50
/// times as long.
const CHECKED: [&[&str]; 2] =
    [&["-p", "pipe-runtime", "--lib", "torch::"], &["-p", "pipe-tests", "--test", "all", "model::lent"]];

pub fn run(checkout: &Checkout, long: bool) -> anyhow::Result<ExitCode> {
    libtorch::set_up(checkout, Flavour::Cpu)?;
    for mpi in [mpi::OPEN_MPI, mpi::MPICH] {
        mpi.set_up()?;
    }
    let Extent { stride, steps, allocations, kills } = if long { HOURS } else { MINUTES };
    let mut parts = vec![
        ("a fault at every op", program(checkout, &["faults", "--stride", stride])),
        ("a long training", program(checkout, &["soak", "--steps", steps])),
        ("allocations that fail", test(checkout, &["-p", "pipe-failing-libtorch"], ("PIPE_STRIDE", allocations))),
        (
            "saves that fail or are killed",
            test(checkout, &["-p", "pipe-tests", "--test", "interrupted"], (KILLS, kills)),
        ),
        (
            "processes that are killed",
            test(checkout, &["-p", "pipe-tests", "--test", "processes", KILLING], (KILLS, kills)),
        ),
    ];
    match Command::new("valgrind").arg("--version").output().is_ok_and(|found| found.status.success()) {
        true => parts.extend(CHECKED.map(|tests| ("valgrind", test(checkout, tests, valgrind(checkout))))),
        false => println!("skipped: valgrind is not installed"),
    }
    match has_standard_library() {
        true => parts.push(("the thread sanitizer", thread_sanitizer(checkout))),
        false => println!("skipped: the standard library's source is missing: run `rustup component add rust-src`"),
    }
    let mut failed = Vec::new();
    for (name, command) in &mut parts {
        println!("\n# {name}\n");
        // Thousands of panics are returned as errors, and need not be printed.
        let status = command.env_remove("RUST_BACKTRACE").status().context(cargo::CANNOT_START)?;
        if !status.success() {
            failed.push(*name);
        }
    }
    match failed.as_slice() {
        [] => println!("\nall parts are done, without a miss"),
        _ => println!("\nfailed: {}", failed.join(", ")),
    }
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs tests one after the other, with a variable of the environment.
fn test(checkout: &Checkout, tests: &[&str], (name, value): (&str, impl AsRef<OsStr>)) -> Command {
    let mut cargo = cargo::command(checkout);
    cargo.arg("test").args(tests).args(["--", "--nocapture", "--test-threads=1"]).env(name, value);
    cargo
}

/// The variable by which Cargo starts tests under valgrind.
fn valgrind(checkout: &Checkout) -> (&'static str, String) {
    let known = checkout.root.join("tests/valgrind.supp");
    // libtorch frees by `free` what it has made by `new`.
    let flags = "--quiet --error-exitcode=9 --error-limit=no --num-callers=25 --show-mismatched-frees=no";
    ("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", format!("valgrind {flags} --suppressions={}", known.display()))
}

/// Whether the source of the standard library is installed.
fn has_standard_library() -> bool {
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output();
    let manifest = "lib/rustlib/src/rust/library/Cargo.toml";
    sysroot.is_ok_and(|found| Path::new(String::from_utf8_lossy(&found.stdout).trim()).join(manifest).is_file())
}

/// The tests of the engine under the thread sanitizer, with a standard library that is compiled for
/// it: what its locks do is unknown to it otherwise.
fn thread_sanitizer(checkout: &Checkout) -> Command {
    let mut cargo = cargo::command(checkout);
    cargo.args(["test", "-Zbuild-std", "--target", "x86_64-unknown-linux-gnu", "-p", "pipe-engine", "--tests"]);
    cargo.env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", "-Zsanitizer=thread");
    cargo.env("CARGO_TARGET_DIR", checkout.root.join("target/thread-sanitizer"));
    cargo
}

fn program(checkout: &Checkout, args: &[&str]) -> Command {
    let mut cargo = cargo::command(checkout);
    cargo.args(["run", "--release", "--quiet", "-p", "pipe-programs", "--bin", "torture", "--"]).args(args);
    cargo
}
