//! Tests `cargo xtask oracle`.

use std::fs;
use std::process::Command;

use crate::workbench::{Workbench, fails, succeeds};

fn oracle(bench: &Workbench) -> Command {
    let mut oracle = bench.xtask(&["oracle"]);
    oracle.env("LIBTORCH", bench.libtorch("own", "2.11")).env("CARGO", bench.path("bin/cargo"));
    oracle.env_remove("PIPE_ORACLE_PYTHON");
    oracle
}

fn bench(test: &str) -> Workbench {
    let bench = Workbench::new(test);
    bench.program("cargo");
    bench
}

#[test]
fn torchgpipe_is_installed_once_and_compares() {
    let bench = bench("oracle");
    for _ in 0..2 {
        assert!(succeeds(&mut oracle(&bench)).contains("ran compare.py\n"));
    }
    let installs: Vec<_> = bench.pip_calls().into_iter().filter(|call| call.contains("install")).collect();
    assert_eq!(installs.len(), 1, "{installs:?}");
    assert!(installs[0].ends_with("numpy torch==2.11.0 torchgpipe==0.0.7"), "{installs:?}");
    assert!(!installs[0].contains("--python-version"), "{installs:?}");
    assert_eq!(bench.cache_entries("pipe-oracle"), ["torchgpipe-0.0.7"]);
    let runs = fs::read_to_string(bench.path("bin/cargo-calls")).unwrap();
    assert!(runs.contains("-p pipe-programs --bin oracle"), "{runs}");
}

#[test]
fn what_cannot_be_imported_is_not_kept() {
    let bench = bench("oracle-incomplete");
    bench.mood("incomplete");
    let error = fails(&mut oracle(&bench));
    assert!(error.contains("cannot be imported (ModuleNotFoundError: No module named 'torchgpipe')"), "{error}");
    assert!(bench.cache_entries("pipe-oracle").is_empty());
}

#[test]
fn a_python_of_the_users_own_without_torchgpipe_is_named() {
    let bench = bench("oracle-own");
    bench.program("environment");
    let own = bench.path("bin/environment");
    let error = fails(oracle(&bench).env("PIPE_ORACLE_PYTHON", &own));
    assert!(error.starts_with("PIPE_ORACLE_PYTHON, set to"), "{error}");
    assert!(error.contains("-m pip install numpy torch==2.11.0 torchgpipe==0.0.7"), "{error}");
    assert!(bench.pip_calls().is_empty());
    fs::write(bench.path("bin/installed"), "").unwrap();
    succeeds(oracle(&bench).env("PIPE_ORACLE_PYTHON", &own));
}
