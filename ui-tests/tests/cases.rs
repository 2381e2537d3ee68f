//! Cases that must not compile, one file per rule with the expected errors beside it, and cases
//! that must. Those in `cases/built` are rejected by `cargo build`, and not yet by
//! `cargo check`.

use std::io::Write;
use std::process::Command;

/// The release of rustc that wrote the expected messages.
const RUSTC: &str = "rustc 1.95.";

#[test]
fn rejected_structs_are_explained() {
    if !is_expected_rustc() {
        return;
    }
    let cases = trybuild::TestCases::new();
    for rules in [
        "children",
        "skips",
        "lends",
        "sums",
        "devices",
        "types",
        "settings",
        "form",
        "processes",
        "recompute",
        "warnings",
    ] {
        cases.compile_fail(format!("cases/{rules}/*.rs"));
    }
}

#[test]
fn valid_structs_compile() {
    trybuild::TestCases::new().pass("cases/pass/*.rs");
}

#[test]
fn mistakes_that_only_a_build_shows_are_explained() {
    if !is_expected_rustc() {
        return;
    }
    let cases = trybuild::TestCases::new();
    // With a case that must compile, trybuild builds, and does not only check.
    cases.pass("cases/pass/array_skips.rs");
    cases.compile_fail("cases/built/*.rs");
}

/// Whether the compiler writes the expected messages. If not, this says so.
fn is_expected_rustc() -> bool {
    let rustc = rustc_version();
    let is_expected = rustc.starts_with(RUSTC);
    if !is_expected {
        // `println!` would show nothing, because the output of a test that passes is captured.
        let skipped = format!("skipped: the expected messages are those of {RUSTC}x, and this is {rustc}\n");
        std::io::stdout().write_all(skipped.as_bytes()).expect("there is a standard output");
    }
    is_expected
}

/// Version of the compiler that runs the cases: `rustc 1.95.0 (..)`.
fn rustc_version() -> String {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("--version").output().expect("rustc runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
