//! A crate outside the workspace builds and runs with only what the README says.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Returns the fenced block after `heading`.
fn block<'a>(readme: &'a str, heading: &str) -> &'a str {
    let (_, after) = readme.split_once(heading).unwrap_or_else(|| panic!("the README has no `{heading}`"));
    let (_, fenced) = after.split_once("```").expect("a block follows");
    let (_, body) = fenced.split_once('\n').expect("the fence is a line");
    body.split_once("```").expect("the block ends").0
}

/// Writes the crate that the README describes into `outside`, with the paths of this checkout.
fn write_crate(workspace: &Path, outside: &Path) {
    let readme = fs::read_to_string(workspace.join("README.md")).unwrap();
    fs::create_dir_all(outside.join(".cargo")).unwrap();
    fs::create_dir_all(outside.join("src")).unwrap();
    let here = format!("{}/", workspace.display());
    // The workspace's own build uses the same path, so tch is not compiled again.
    let libtorch = format!("\"{here}.libtorch/torch\"");
    let tch = pipe_libtorch::Lock::in_folder(workspace).expect("the workspace is locked").tch;
    let write = |file: &str, text: &str| {
        let text = text.replace("../pipe/", &here).replace("\".libtorch/torch\", relative = true", &libtorch);
        fs::write(outside.join(file), text.replace("tch = \"0.26\"", &format!("tch = \"{tch}\""))).unwrap();
    };
    let section = readme.split_once("## In a crate of your own").expect("the README has the section").1;
    // The examples have a crate that wants this feature of what macros need. With it, and with the
    // profile below, what the workspace has compiled is used.
    let syn = "syn = { version = \"2\", features = [\"extra-traits\"] }\n";
    write("Cargo.toml", &format!("{}{syn}", block(section, "`Cargo.toml`")));
    write(".cargo/config.toml", block(section, "`.cargo/config.toml`"));
    write("build.rs", block(section, "`build.rs`"));
    write("src/main.rs", &fs::read_to_string(workspace.join("examples/src/bin/first_pipeline.rs")).unwrap());
    // And the same toolchain.
    for file in ["Cargo.lock", "rust-toolchain.toml"] {
        fs::copy(workspace.join(file), outside.join(file)).unwrap();
    }
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace")
}

fn cargo(outside: &Path, args: &[&str]) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(args).current_dir(outside).env_remove("LIBTORCH").env_remove("LD_LIBRARY_PATH");
    cargo
}

#[test]
fn a_crate_of_ones_own_builds_and_runs() {
    let workspace = workspace();
    let parent = tempfile::tempdir().unwrap();
    let outside = parent.path().join("my-model");
    write_crate(workspace, &outside);

    // The workspace's target folder already has a built tch.
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), Into::into);
    let profile = ["CARGO_PROFILE_DEV_DEBUG", "CARGO_PROFILE_DEV_BUILD_OVERRIDE_DEBUG"];
    let mut run = cargo(&outside, &["run", "--quiet"]);
    run.envs(profile.map(|setting| (setting, "line-tables-only"))).env("CARGO_TARGET_DIR", target);
    let output = run.output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stderr}");
    let losses: Vec<f64> = stdout.lines().filter_map(|line| line.split_once(": loss ")?.1.parse().ok()).collect();
    assert!(losses.len() == 5 && losses[4] < losses[0], "{stdout}");
}

/// Cargo first starts the unit that the most units wait for. The check of libtorch has no
/// dependencies, so if more units wait for it than for torch-sys, it runs before any C++ is
/// compiled, on any number of cores. Otherwise pages of messages about missing headers would hide
/// its message.
#[test]
fn libtorch_is_checked_before_tch_is_compiled() {
    let parent = tempfile::tempdir().unwrap();
    let outside = parent.path().join("my-model");
    write_crate(workspace(), &outside);
    let graph = cargo(&outside, &["build", "--unit-graph", "-Z", "unstable-options", "--offline"])
        .env("RUSTC_BOOTSTRAP", "1")
        .output()
        .unwrap();
    assert!(graph.status.success(), "{}", String::from_utf8_lossy(&graph.stderr));
    let graph: Value = serde_json::from_slice(&graph.stdout).unwrap();
    let units = graph["units"].as_array().unwrap();
    let waiting = |package: &str| {
        let is_it =
            |unit: &&Value| unit["mode"] == "run-custom-build" && unit["pkg_id"].as_str().unwrap().contains(package);
        let run = units.iter().find(is_it).unwrap_or_else(|| panic!("{package} has a build script"));
        let mut found = HashSet::new();
        let mut open = vec![units.iter().position(|unit| std::ptr::eq(unit, run)).unwrap()];
        while let Some(index) = open.pop() {
            let needs = |unit: &Value| unit["dependencies"].as_array().unwrap().iter().any(|d| d["index"] == index);
            open.extend((0..units.len()).filter(|unit| needs(&units[*unit]) && found.insert(*unit)));
        }
        found.len()
    };
    let (check, torch_sys) = (waiting("/libtorch#"), waiting("torch-sys"));
    assert!(check > torch_sys, "{check} units wait for the check, {torch_sys} for torch-sys");
}
