//! A crate outside the workspace builds and runs with what the README says, and nothing more.

use std::path::Path;
use std::process::Command;

/// The fenced block after `heading`.
fn block<'a>(readme: &'a str, heading: &str) -> &'a str {
    let (_, after) = readme.split_once(heading).unwrap_or_else(|| panic!("the README has no `{heading}`"));
    let (_, fenced) = after.split_once("```").expect("a block follows");
    let (_, body) = fenced.split_once('\n').expect("the fence is a line");
    body.split_once("```").expect("the block ends").0
}

#[test]
fn a_crate_of_ones_own_builds_and_runs() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace");
    let readme = std::fs::read_to_string(workspace.join("README.md")).unwrap();
    let parent = tempfile::tempdir().unwrap();
    let outside = parent.path().join("my-model");
    std::fs::create_dir_all(outside.join(".cargo")).unwrap();
    std::fs::create_dir_all(outside.join("src")).unwrap();
    let here = format!("{}/", workspace.display());
    // The same path as the workspace's own build uses, so that tch is not compiled once more.
    let libtorch = format!("\"{here}.libtorch/torch\"");
    let tch = pipe_libtorch::Lock::in_folder(workspace).expect("the workspace is locked").tch;
    let write = |file: &str, text: &str| {
        let text = text.replace("../pipe/", &here).replace("\".libtorch/torch\", relative = true", &libtorch);
        std::fs::write(outside.join(file), text.replace("tch = \"0.26\"", &format!("tch = \"{tch}\""))).unwrap();
    };
    let section = readme.split_once("## In a crate of your own").expect("the README has the section").1;
    write("Cargo.toml", block(section, "`Cargo.toml`"));
    write(".cargo/config.toml", block(section, "`.cargo/config.toml`"));
    write("build.rs", block(section, "`build.rs`"));
    let example = readme.split_once("```rust\n").and_then(|(_, rest)| rest.split_once("```")).unwrap().0;
    write("src/main.rs", example);
    std::fs::copy(workspace.join("Cargo.lock"), outside.join("Cargo.lock")).unwrap();

    // The workspace's target folder holds a built tch already.
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), Into::into);
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["run", "--quiet"])
        .current_dir(&outside)
        .env("CARGO_TARGET_DIR", target)
        .env_remove("LIBTORCH")
        .env_remove("LD_LIBRARY_PATH")
        .output()
        .unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stderr}");
    assert!(stdout.contains("step 2: loss 0."), "{stdout}");
}
