//! Tests `cargo xtask published`.

use std::fs;

use crate::workbench::{Workbench, succeeds};

#[test]
fn the_program_runs_in_release_with_the_arguments() {
    let bench = Workbench::new("published");
    bench.program("cargo");
    let mut published = bench.xtask(&["published", "--small"]);
    published.env("LIBTORCH", bench.libtorch("own", "2.11")).env("CARGO", bench.path("bin/cargo"));
    succeeds(&mut published);
    let run = fs::read_to_string(bench.path("bin/cargo-calls")).unwrap();
    assert!(run.ends_with("run --release --quiet -p pipe-programs --bin published -- --small\n"), "{run}");
}
