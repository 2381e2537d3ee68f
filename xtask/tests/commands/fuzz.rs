//! Tests `cargo xtask fuzz`.

use std::fs;
use std::process::Command;

use crate::workbench::{Workbench, fails, succeeds};

fn fuzz(bench: &Workbench, args: &[&str]) -> Command {
    bench.program("cargo");
    let mut fuzz = bench.xtask(&[&["fuzz"], args].concat());
    fuzz.env("LIBTORCH", bench.libtorch("own", "2.11")).env("CARGO", bench.path("bin/cargo"));
    fuzz
}

#[test]
fn each_target_runs_for_its_time_from_the_inputs_of_the_repository() {
    let bench = Workbench::new("fuzz");
    succeeds(&mut fuzz(&bench, &["--minutes", "2"]));
    let runs = fs::read_to_string(bench.path("bin/cargo-calls")).unwrap();
    let runs: Vec<_> = runs.lines().filter(|line| line.starts_with("fuzz run")).collect();
    let [schedule, attribute, .., message] = runs[..] else { panic!("{runs:?}") };
    assert_eq!(runs.len(), 8, "{runs:?}");
    assert!(schedule.contains(" schedule ") && schedule.contains("pipe-runtime/schedule/tests/pytorch"), "{schedule}");
    assert!(attribute.contains(" attribute ") && attribute.contains("ui-tests/cases"), "{attribute}");
    assert!(message.contains(" message ") && message.contains("xtask/fuzz/seeds/message"), "{message}");
    assert!(runs.iter().all(|run| run.contains("-max_total_time=120")), "{runs:?}");
}

#[test]
fn a_target_that_does_not_exist_is_named_beside_those_that_do() {
    let bench = Workbench::new("fuzz-unknown");
    let error = fails(&mut fuzz(&bench, &["scedule"]));
    assert!(error.contains("no target `scedule`: the targets are schedule, attribute, layers, flow, balance_file, safetensors, checkpoint, message"), "{error}");
}
