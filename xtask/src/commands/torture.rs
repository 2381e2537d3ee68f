//! `cargo xtask torture`: faults at every op, allocation and operator, a long training, killed
//! saves and processes, valgrind and the sanitizers, with counts of what was not as it should be.
//! `docs/reliability.md` has the figures.

use std::io;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::Context;

use crate::commands::test::watch;
use crate::tools::checkout::Checkout;
use crate::tools::libtorch::Flavour;
use crate::tools::{cargo, libtorch, mpi};

/// The test that kills processes of a training, whose number is in this variable.
const KILLS: &str = "PIPE_KILLS";
const KILLING: &str = "losses::trainings_that_are_killed_again_and_again_end_as_one_that_is_not";

/// For a single package, Cargo chooses other features, and compiles tch again.
const WHOLE: &str = "--workspace";

/// Tests in which allocations and operators of libtorch fail.
const IN_LIBTORCH: [&str; 9] = [WHOLE, "--test", "calls", "--test", "routes", "--test", "training", "--test", "killed"];

/// Tests of one process, which the tests of each change run, too.
const OF_ONE_PROCESS: [&str; 7] = [WHOLE, "--test", "resources", "--test", "leaks", "--test", "beside"];

/// How much is done.
struct Extent {
    stride: &'static str,
    steps: &'static str,
    /// One of so many allocations, and operators, fails.
    in_libtorch: &'static str,
    kills: &'static str,
}

const MINUTES: Extent = Extent { stride: "7", steps: "10000", in_libtorch: "701", kills: "20" };
const HOURS: Extent = Extent { stride: "1", steps: "200000", in_libtorch: "1", kills: "300" };

/// Tests that valgrind runs: the shim's own, and those in which steps fail. They take 20 to 50
/// times as long. They are of single packages: others of the workspace want mimalloc, and what it
/// allocates, neither valgrind nor the sanitizers see.
const CHECKED: [&[&str]; 2] =
    [&["-p", "pipe-runtime", "--lib", "torch::"], &["-p", "pipe-tests", "--test", "all", "model::lent"]];

/// The variable of what Cargo starts tests by.
const RUNNER: &str = "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER";

/// The target for which this is compiled. With `--target`, flags are not for build scripts.
const TARGET: &str = "x86_64-unknown-linux-gnu";

pub fn run(checkout: &Checkout, long: bool) -> anyhow::Result<ExitCode> {
    libtorch::set_up(checkout, Flavour::Cpu)?;
    for mpi in [mpi::OPEN_MPI, mpi::MPICH] {
        mpi.set_up()?;
    }
    let Extent { stride, steps, in_libtorch, kills } = if long { HOURS } else { MINUTES };
    let in_libtorch = [("PIPE_STRIDE", in_libtorch.to_owned()), (KILLS, kills.to_owned())];
    let killing = [(KILLS, kills.to_owned())];
    let mut parts = vec![
        ("a fault at every op", program(checkout, &["faults", "--stride", stride])),
        ("a long training", program(checkout, &["soak", "--steps", steps])),
        ("what fails in libtorch", test(checkout, &IN_LIBTORCH, &in_libtorch)),
        ("saves that fail or are killed", test(checkout, &[WHOLE, "--test", "interrupted"], &killing)),
        ("processes that are killed", test(checkout, &[WHOLE, "--test", "processes", KILLING], &killing)),
        ("what a process lacks, leaks, and two at once", test(checkout, &OF_ONE_PROCESS, &[])),
    ];
    let mut skipped = Vec::new();
    match Command::new("valgrind").arg("--version").output().is_ok_and(|found| found.status.success()) {
        true => parts.extend(CHECKED.map(|tests| ("valgrind", test(checkout, tests, &[valgrind(checkout)])))),
        false => skipped.push("valgrind is not installed"),
    }
    match has_standard_library() {
        true => parts.push(("the thread sanitizer", thread_sanitizer(checkout))),
        false => skipped.push(
            "the thread sanitizer: the standard library's source is missing: run `rustup component add rust-src`",
        ),
    }
    if long {
        match sanitizers() {
            Some(libraries) => parts.push(("the shim's sanitizers", sanitized(checkout, &libraries))),
            None => skipped.push("the shim's sanitizers: gcc lacks the libraries `libasan.so` and `libubsan.so`"),
        }
    }
    let mut failed = Vec::new();
    for (name, command) in &mut parts {
        println!("\n# {name}\n");
        // Thousands of panics are returned as errors, and need not be printed.
        command.env_remove("RUST_BACKTRACE");
        let is_test = command.get_args().next().is_some_and(|first| first == "test");
        let done = match is_test {
            true => {
                let (status, tally) = watch(command, &mut io::stdout().lock())?;
                println!("{tally}");
                // A test that has another name now would be left out without a word.
                status.success() && tally.has_passed()
            }
            false => command.status().context(cargo::CANNOT_START)?.success(),
        };
        if !done {
            failed.push(*name);
        }
    }
    println!();
    skipped.iter().for_each(|what| println!("skipped: {what}"));
    match failed.as_slice() {
        [] => println!("all parts are done, without a miss"),
        _ => println!("failed, or without a test: {}", failed.join(", ")),
    }
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs tests one after the other, with variables of the environment.
fn test(checkout: &Checkout, tests: &[&str], variables: &[(&str, String)]) -> Command {
    let mut cargo = cargo::command(checkout);
    cargo.arg("test").args(tests).args(["--", "--nocapture", "--test-threads=1"]);
    cargo.envs(variables.iter().map(|(name, value)| (name, value)));
    cargo
}

/// The variable by which Cargo starts tests under valgrind, and its value.
fn valgrind(checkout: &Checkout) -> (&'static str, String) {
    let known = checkout.root.join("tests/valgrind.supp");
    // libtorch frees by `free` what it has made by `new`.
    let flags = "--quiet --error-exitcode=9 --error-limit=no --num-callers=25 --show-mismatched-frees=no";
    (RUNNER, format!("valgrind {flags} --suppressions={}", known.display()))
}

/// Whether the source of the standard library is installed.
fn has_standard_library() -> bool {
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output();
    let manifest = "lib/rustlib/src/rust/library/Cargo.toml";
    sysroot.is_ok_and(|found| Path::new(String::from_utf8_lossy(&found.stdout).trim()).join(manifest).is_file())
}

/// The tests of the engine and of the schedules under the thread sanitizer, with a standard library
/// that is compiled for it: what its locks do is unknown to it otherwise.
fn thread_sanitizer(checkout: &Checkout) -> Command {
    let mut cargo = cargo::command(checkout);
    cargo.args(["test", "-Zbuild-std", "--target", TARGET, "-p", "pipe-engine", "-p", "pipe-schedule", "--tests"]);
    cargo.env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", "-Zsanitizer=thread");
    cargo.env("CARGO_TARGET_DIR", checkout.root.join("target/thread-sanitizer"));
    cargo
}

/// The libraries of gcc's sanitizers, if it has them.
fn sanitizers() -> Option<String> {
    let library = |name: &str| {
        let found = Command::new("gcc").arg(format!("-print-file-name={name}")).output().ok()?;
        let path = String::from_utf8_lossy(&found.stdout).trim().to_owned();
        // It prints the name alone of what it does not have.
        Path::new(&path).is_absolute().then_some(path)
    };
    Some(format!("{}:{}", library("libasan.so")?, library("libubsan.so")?))
}

/// The tests of the pipeline, with the C++ of the shim and of tch compiled for the address and the
/// undefined behaviour sanitizers. libtorch keeps much until the process ends, so leaks are left to
/// other tests.
fn sanitized(checkout: &Checkout, sanitizers: &str) -> Command {
    let mut cargo = cargo::command(checkout);
    cargo.args(["test", "--target", TARGET, "-p", "pipe-tests", "--test", "all"]);
    cargo.env("CXXFLAGS", "-fsanitize=address,undefined -fno-sanitize=vptr -fno-omit-frame-pointer");
    cargo.env("RUSTFLAGS", "-Clink-arg=-lasan -Clink-arg=-lubsan");
    cargo.env("CARGO_TARGET_DIR", checkout.root.join("target/sanitized"));
    let options = "ASAN_OPTIONS=detect_leaks=0:detect_odr_violation=0 UBSAN_OPTIONS=halt_on_error=1";
    // The libraries must be the first ones of the tests, and of nothing else.
    cargo.env(RUNNER, format!("env {options} LD_PRELOAD={sanitizers}"));
    cargo
}

fn program(checkout: &Checkout, args: &[&str]) -> Command {
    let mut cargo = cargo::command(checkout);
    cargo.args(["run", "--release", "--quiet", "-p", "pipe-programs", "--bin", "torture", "--"]).args(args);
    cargo
}
