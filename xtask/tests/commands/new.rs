//! Tests `cargo xtask new`. `tests/tests/outside.rs` tests that such a crate builds and trains,
//! with the files that the README shows.

use std::fs;

use crate::workbench::{Workbench, fails, succeeds};

#[test]
fn a_crate_beside_the_checkout_has_all_it_needs() {
    let bench = Workbench::new("new");
    let user = bench.path("my-net");
    let said = succeeds(&mut bench.xtask(&["new", user.to_str().unwrap()]));
    assert!(said.contains("tch 0.26 and libtorch 2.13"), "{said}");
    assert!(fs::read_link(user.join(".libtorch")).unwrap().ends_with("2.13.0-cpu"));
    let read = |file: &str| fs::read_to_string(user.join(file)).unwrap();
    let manifest = read("Cargo.toml");
    assert!(manifest.contains("name = \"my-net\"\n") && manifest.contains("tch = \"0.26\"\n"), "{manifest}");
    assert!(manifest.contains("path = \"../checkout/pipe-runtime/libtorch\""), "{manifest}");
    assert!(read(".cargo/config.toml").contains(".libtorch/torch"));
    assert!(read("rust-toolchain.toml").contains("channel = "));
    assert!(read("src/main.rs").contains("#[pipeline") && !read("src/main.rs").contains("pipe-examples"));

    let error = fails(&mut bench.xtask(&["new", user.to_str().unwrap()]));
    assert!(error.contains("my-net is not empty: name a new folder"), "{error}");
}

#[test]
fn another_tch_and_another_place_can_be_chosen() {
    let bench = Workbench::new("new-elsewhere");
    let user = bench.path("deeper/my_net");
    let said = succeeds(&mut bench.xtask(&["new", user.to_str().unwrap(), "--tch", "0.24"]));
    assert!(said.contains("tch 0.24 and libtorch 2.11"), "{said}");
    let manifest = fs::read_to_string(user.join("Cargo.toml")).unwrap();
    let absolute = format!("path = \"{}\"", bench.path("checkout/pipe-runtime").display());
    assert!(manifest.contains(&absolute) && manifest.contains("tch = \"0.24\""), "{manifest}");
}

#[test]
fn what_cannot_be_a_crate_is_refused_before_anything_is_written() {
    let bench = Workbench::new("new-refused");
    let named = |folder: &str| bench.path(folder).to_str().unwrap().to_owned();
    let error = fails(&mut bench.xtask(&["new", &named("1st")]));
    assert!(error.starts_with("`1st` cannot be the name of a crate"), "{error}");
    let error = fails(&mut bench.xtask(&["new", &named("checkout/inside")]));
    assert!(error.contains("lies in this checkout"), "{error}");
    let error = fails(&mut bench.xtask(&["new", &named("net"), "--tch", "0.19"]));
    assert_eq!(error, "tch 0.19 has not been tried: 0.24 and 0.26 have\n");
    fs::write(bench.path("file"), "").unwrap();
    let error = fails(&mut bench.xtask(&["new", &named("file")]));
    assert!(error.ends_with("file is not a folder\n"), "{error}");
    assert!(!bench.path("1st").exists() && !bench.path("net").exists() && bench.pip_calls().is_empty());
}

#[test]
fn a_download_that_fails_leaves_the_crate_and_says_what_is_missing() {
    let bench = Workbench::new("new-offline");
    bench.without_program("python3");
    let user = bench.path("my-net");
    let error = fails(&mut bench.xtask(&["new", user.to_str().unwrap()]));
    assert!(error.contains("my-net is written, but has no libtorch yet: run `cargo xtask libtorch --for "), "{error}");
    assert!(user.join("src/main.rs").is_file());
}
