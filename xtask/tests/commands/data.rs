//! Tests `cargo xtask data`.

use std::fs;

use crate::workbench::{Workbench, fails};

#[test]
fn digits_that_differ_from_the_pinned_ones_are_not_kept() {
    let bench = Workbench::new("data-changed");
    let error = fails(&mut bench.xtask(&["data"]));
    assert!(error.starts_with("digits.csv.gz in scikit-learn==1.5.2 has 15 bytes"), "{error}");
    assert!(!bench.path("checkout/data").exists());
    assert!(bench.cache_entries("pipe-data").is_empty());
}

#[test]
fn wrong_digits_in_the_checkout_are_named_and_left_alone() {
    let bench = Workbench::new("data-wrong");
    let digits = bench.path("checkout/data/digits.csv.gz");
    fs::create_dir(bench.path("checkout/data")).unwrap();
    fs::write(&digits, "mine").unwrap();
    let error = fails(&mut bench.xtask(&["data"]));
    assert!(error.contains("digits.csv.gz has 4 bytes"), "{error}");
    assert!(error.contains("delete it and run `cargo xtask data`"), "{error}");
    assert_eq!(fs::read(&digits).unwrap(), b"mine");
    assert!(bench.pip_calls().is_empty());
}
