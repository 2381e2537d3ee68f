//! Tests `cargo xtask bench`.

use std::process::Command;

use crate::workbench::{Workbench, fails};

fn bench(workbench: &Workbench, args: &[&str]) -> Command {
    let mut bench = workbench.xtask(&[&["bench"], args].concat());
    bench.env("LIBTORCH", workbench.libtorch("own", "2.11")).env("CARGO", workbench.path("bin/cargo"));
    bench
}

#[test]
fn a_figure_that_does_not_exist_is_named_beside_those_that_do() {
    let workbench = Workbench::new("bench-figure");
    let output = bench(&workbench, &["--only", "speed"]).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("'speed'") && error.contains("dispatch, efficiency, torchgpipe"), "{error}");
}

#[test]
fn our_side_is_built_in_release_and_without_it_nothing_is_measured() {
    let workbench = Workbench::new("bench-build");
    workbench.program("cargo");
    let error = fails(&mut bench(&workbench, &["--quick"]));
    assert!(error.contains("cargo does not say where it has put the contender"), "{error}");
    let runs = std::fs::read_to_string(workbench.path("bin/cargo-calls")).unwrap();
    assert!(runs.contains("build --release --quiet -p pipe-programs --bin bench"), "{runs}");
    assert!(workbench.pip_calls().is_empty());
}
