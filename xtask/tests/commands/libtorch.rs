//! Tests `cargo xtask libtorch`.

use std::fs;
use std::process::Stdio;

use crate::workbench::{Workbench, fails, succeeds};

const LIBTORCH: &[&str] = &["libtorch"];

#[test]
fn it_is_installed_in_the_cache_and_linked() {
    let bench = Workbench::new("installs");
    succeeds(&mut bench.xtask(LIBTORCH));
    assert_eq!(fs::read_link(bench.path("checkout/.libtorch")).unwrap(), bench.cached());
    assert_eq!(bench.cache_entries("pipe-libtorch"), ["2.11.0-cpu"]);
}

/// torch-sys reads only this file, which wheels do not have.
#[test]
fn what_is_installed_says_its_version_to_torch_sys_too() {
    let bench = Workbench::new("build-version");
    succeeds(&mut bench.xtask(LIBTORCH));
    let stamp = bench.cached().join("torch/build-version");
    assert_eq!(fs::read_to_string(&stamp).unwrap(), "2.11.0\n");
    fs::remove_file(&stamp).unwrap();
    bench.clone_named("clone");
    succeeds(&mut bench.xtask_in("clone", LIBTORCH));
    assert!(stamp.is_file() && bench.pip_calls().len() == 1);
}

#[test]
fn the_lock_file_decides_which_one_is_installed() {
    let bench = Workbench::new("lock-file");
    bench.lock("checkout", "0.26.0");
    let said = succeeds(&mut bench.xtask(LIBTORCH));
    assert!(said.contains("libtorch 2.13 is ready"), "{said}");
    assert_eq!(bench.cache_entries("pipe-libtorch"), ["2.13.0-cpu"]);
    assert!(bench.pip_calls()[0].contains("torch==2.13.0"), "{:?}", bench.pip_calls());

    // The linked libtorch no longer fits.
    bench.lock("checkout", "0.24.0");
    succeeds(&mut bench.xtask(LIBTORCH));
    assert_eq!(fs::read_link(bench.path("checkout/.libtorch")).unwrap(), bench.cached());
}

#[test]
fn a_tch_that_was_never_tried_is_named() {
    let bench = Workbench::new("unknown-tch");
    bench.lock("checkout", "0.31.0");
    let error = fails(&mut bench.xtask(LIBTORCH));
    assert!(error.contains("Cargo.lock has tch 0.31.0, which has not been tried"), "{error}");
    fs::remove_file(bench.path("checkout/Cargo.lock")).unwrap();
    let error = fails(&mut bench.xtask(LIBTORCH));
    assert!(error.starts_with("there is no Cargo.lock with tch in "), "{error}");
}

#[test]
fn a_users_crate_gets_the_one_for_its_own_tch() {
    let bench = Workbench::new("user");
    let user = bench.path("my-model");
    fs::create_dir_all(user.join("src")).unwrap();
    fs::write(user.join("src/lib.rs"), "").unwrap();
    fs::write(user.join("Cargo.toml"), "[package]\nname = \"my-model\"\n[workspace]\n").unwrap();
    bench.lock("my-model", "0.26.0");
    let told =
        |xtask: &mut std::process::Command| succeeds(xtask.env("CARGO", env!("CARGO")).env_remove("CARGO_TARGET_DIR"));
    let said = told(&mut bench.xtask(&["libtorch", "--for", user.to_str().unwrap()]));
    assert!(fs::read_link(user.join(".libtorch")).unwrap().ends_with("2.13.0-cpu"));
    assert!(!bench.path("checkout/.libtorch").is_symlink());
    assert!(said.contains("LIBTORCH = { value = \".libtorch/torch\", relative = true }"), "{said}");

    fs::create_dir(user.join(".cargo")).unwrap();
    fs::write(user.join(".cargo/config.toml"), "[env]\nLIBTORCH = { value = \".libtorch/torch\", relative = true }\n")
        .unwrap();
    let said = told(&mut bench.xtask(&["libtorch", "--for", user.to_str().unwrap()]));
    assert!(!said.contains("write this"), "{said}");

    let error = fails(&mut bench.xtask(&["libtorch", "--for", "/nowhere"]));
    assert_eq!(error, "there is no /nowhere/Cargo.toml: name the folder of a crate\n");
}

#[test]
fn a_compiler_that_is_too_old_is_named() {
    let bench = Workbench::new("old-compiler");
    let own = bench.libtorch("own", "2.11");
    fs::write(own.join("include/ATen/ATen.h"), "#if __cplusplus < 202002L\n").unwrap();
    let error = fails(bench.xtask(LIBTORCH).env("LIBTORCH", own));
    assert!(error.starts_with("the C++ compiler, `c++`, is too old for C++20, which libtorch 2.11 needs"), "{error}");
}

#[test]
fn a_second_run_has_nothing_to_do() {
    let bench = Workbench::new("second-run");
    succeeds(&mut bench.xtask(LIBTORCH));
    bench.without_program("python3");
    succeeds(&mut bench.xtask(LIBTORCH));
}

#[test]
fn a_second_clone_uses_the_cache() {
    let bench = Workbench::new("second-clone");
    succeeds(&mut bench.xtask(LIBTORCH));
    let clone = bench.clone_named("clone");
    succeeds(&mut bench.xtask_in("clone", LIBTORCH));
    assert_eq!(fs::read_link(clone.join(".libtorch")).unwrap(), bench.cached());
    assert_eq!(bench.pip_calls().len(), 1);
}

#[test]
fn concurrent_runs_install_once() {
    let bench = Workbench::new("concurrent");
    bench.mood("slow");
    let checkouts: Vec<_> = (0..4).map(|number| format!("clone{number}")).collect();
    let runs: Vec<_> = checkouts
        .iter()
        .map(|checkout| {
            bench.clone_named(checkout);
            let mut xtask = bench.xtask_in(checkout, LIBTORCH);
            xtask.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for run in runs {
        assert!(run.wait_with_output().unwrap().status.success());
    }
    assert_eq!(bench.pip_calls().len(), 1);
    assert_eq!(bench.cache_entries("pipe-libtorch"), ["2.11.0-cpu"]);
}

#[test]
fn a_download_that_breaks_off_leaves_nothing_and_can_be_repeated() {
    let bench = Workbench::new("breaks-off");
    bench.mood("lost-connection");
    let error = fails(&mut bench.xtask(LIBTORCH));
    assert!(error.starts_with("pip could not reach the package index for libtorch: check the network"));
    assert!(error.contains("IncompleteRead"), "{error}");
    assert!(bench.cache_entries("pipe-libtorch").is_empty());
    assert!(!bench.path("checkout/.libtorch").is_symlink());

    bench.mood("well");
    succeeds(&mut bench.xtask(LIBTORCH));
}

#[test]
fn what_a_killed_run_leaves_is_removed_by_the_next() {
    let bench = Workbench::new("killed");
    bench.mood("killed");
    assert_eq!(bench.xtask(LIBTORCH).output().unwrap().status.code(), None);
    assert_eq!(bench.cache_entries("pipe-libtorch").len(), 1);

    bench.mood("well");
    succeeds(&mut bench.xtask(LIBTORCH));
    assert_eq!(bench.cache_entries("pipe-libtorch"), ["2.11.0-cpu"]);
}

#[test]
fn what_a_killed_runs_pip_still_writes_is_removed_later() {
    let bench = Workbench::new("outlived");
    succeeds(&mut bench.xtask(LIBTORCH));
    fs::create_dir(bench.path("cache/pipe-libtorch/2.11.0-cpu.partial-1")).unwrap();
    bench.clone_named("clone");
    succeeds(&mut bench.xtask_in("clone", LIBTORCH));
    assert_eq!(bench.cache_entries("pipe-libtorch"), ["2.11.0-cpu"]);
}

#[test]
fn an_installation_with_parts_missing_is_not_used() {
    let bench = Workbench::new("incomplete");
    bench.mood("incomplete");
    let error = fails(&mut bench.xtask(LIBTORCH));
    assert!(error.contains("has no headers in include/"), "{error}");
    assert!(bench.cache_entries("pipe-libtorch").is_empty());
}

#[test]
fn a_damaged_cache_is_replaced() {
    let bench = Workbench::new("damaged");
    succeeds(&mut bench.xtask(LIBTORCH));
    fs::remove_file(bench.cached().join("torch/lib/libtorch_cpu.so")).unwrap();
    succeeds(&mut bench.xtask(LIBTORCH));
    assert_eq!(bench.pip_calls().len(), 2);
}

#[test]
fn python_is_asked_for_if_missing() {
    let bench = Workbench::new("no-python");
    bench.without_program("python3");
    let error = fails(&mut bench.xtask(LIBTORCH));
    assert!(error.starts_with("there is no `python3`"), "{error}");
}

#[test]
fn pip_is_asked_for_if_missing() {
    let bench = Workbench::new("no-pip");
    fs::write(bench.path("bin/no-pip"), "No module named pip\n").unwrap();
    let error = fails(&mut bench.xtask(LIBTORCH));
    assert!(error.starts_with("`python3` has no working pip: install it"), "{error}");
}

#[test]
fn a_compiler_is_asked_for_before_the_download() {
    let bench = Workbench::new("no-compiler");
    bench.without_program("c++");
    let error = fails(&mut bench.xtask(LIBTORCH));
    assert!(error.starts_with("there is no C++ compiler: install one"), "{error}");
    let error = fails(bench.xtask(LIBTORCH).env("CXX", "no-such-compiler"));
    assert!(error.starts_with("CXX, set to `no-such-compiler`, does not run"), "{error}");
    assert!(bench.pip_calls().is_empty());
}

#[test]
fn a_full_disk_is_noticed_before_the_download() {
    let bench = Workbench::new("full-disk");
    bench.program("df");
    let error = fails(&mut bench.xtask(LIBTORCH));
    assert!(error.contains("has 1.0 GB free, but 2.6 GB are needed while installing"), "{error}");
    assert!(bench.pip_calls().is_empty());
}

#[test]
fn a_libtorch_of_the_users_own_is_left_alone() {
    let bench = Workbench::new("own");
    let own = bench.libtorch("own", "2.11");
    succeeds(bench.xtask(LIBTORCH).env("LIBTORCH", own));
    assert!(bench.pip_calls().is_empty());
    assert!(!bench.path("checkout/.libtorch").is_symlink());
}

#[test]
fn a_wrong_version_of_the_users_own_is_named() {
    let bench = Workbench::new("own-wrong");
    let own = bench.libtorch("own", "2.9");
    let error = fails(bench.xtask(LIBTORCH).env("LIBTORCH", &own));
    assert_eq!(
        error,
        format!(
            "LIBTORCH, set to `{}`, holds libtorch 2.9, but libtorch 2.11 is needed: point \
             LIBTORCH at one, or unset it and run `cargo xtask libtorch`, which installs one\n",
            own.display()
        )
    );
}

#[test]
fn what_is_no_libtorch_at_all_is_named() {
    let bench = Workbench::new("own-missing");
    for (own, fault) in [("/nowhere", "has no lib/libtorch_cpu"), ("", "is not an absolute path")] {
        let error = fails(bench.xtask(LIBTORCH).env("LIBTORCH", own));
        assert!(error.starts_with(&format!("LIBTORCH, set to `{own}`, {fault}")), "{error}");
    }
}

#[test]
fn the_value_from_cargos_configuration_is_not_the_users() {
    let bench = Workbench::new("configured");
    let configured = bench.path("checkout/.libtorch/torch");
    succeeds(bench.xtask(LIBTORCH).env("LIBTORCH", configured));
    assert!(bench.path("checkout/.libtorch").is_symlink());
}

#[test]
fn a_folder_in_place_of_the_link_is_not_replaced() {
    let bench = Workbench::new("folder");
    fs::create_dir(bench.path("checkout/.libtorch")).unwrap();
    let error = fails(&mut bench.xtask(LIBTORCH));
    assert!(error.contains("move it away"), "{error}");
    assert!(bench.pip_calls().is_empty());
}

#[test]
#[cfg(target_os = "linux")]
fn cuda_is_installed_beside_the_cpu_flavour_and_serves_both() {
    let bench = Workbench::new("cuda");
    succeeds(&mut bench.xtask(LIBTORCH));
    succeeds(&mut bench.xtask(&["libtorch", "--cuda"]));
    succeeds(&mut bench.xtask(LIBTORCH));
    assert_eq!(bench.cache_entries("pipe-libtorch"), ["2.11.0-cpu", "2.11.0-cuda"]);
    let linked = fs::read_link(bench.path("checkout/.libtorch")).unwrap();
    assert!(linked.ends_with("2.11.0-cuda"));
    assert!(bench.pip_calls()[0].contains("--no-deps"));
    assert!(!bench.pip_calls()[1].contains("--no-deps"));
}
