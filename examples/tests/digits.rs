//! The digits demo, ended after an epoch and resumed, or over several processes, prints the last
//! line of one that was not.

use std::path::Path;
use std::process::Command;

#[path = "../../pipe-runtime/comm/tests/processes/launch.rs"]
mod launch;

const DIGITS: &str = env!("CARGO_BIN_EXE_digits");

/// Runs the demo for two epochs, and returns its last line.
fn last_line(mut digits: Command, folder: &Path, args: &[&str]) -> String {
    digits.args(["--epochs", "2", "--batch", "480", "--pictures"]).arg(folder.join("pictures")).args(args);
    let output = digits.output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    printed.trim_end().lines().last().unwrap_or_default().to_owned()
}

#[test]
fn a_demo_that_is_stopped_and_resumed_on_other_processes_ends_with_the_same_line() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = folder.path().join("checkpoints");
    let checkpoints = checkpoints.to_str().unwrap();
    let alone = || Command::new(DIGITS);
    let over = |processes| launch::Ulfm.command(processes, 120, Path::new(DIGITS));
    let whole = last_line(alone(), folder.path(), &[]);
    assert!(whole.contains("identical to unpipelined: yes, parameters "), "{whole}");
    assert_eq!(last_line(over(4), folder.path(), &[]), whole);
    let stop = ["--checkpoint-dir", checkpoints, "--stop-after", "1"];
    assert_eq!(last_line(over(2), folder.path(), &stop), "digits: stopped before the last epoch");
    assert_eq!(last_line(alone(), folder.path(), &["--checkpoint-dir", checkpoints, "--resume"]), whole);
    // Its checkpoint is of the last epoch; the one before is resumed again.
    std::fs::remove_dir_all(newest(Path::new(checkpoints))).unwrap();
    assert_eq!(last_line(over(2), folder.path(), &["--checkpoint-dir", checkpoints, "--resume"]), whole);
}

fn newest(checkpoints: &Path) -> std::path::PathBuf {
    std::fs::read_dir(checkpoints).unwrap().map(|entry| entry.unwrap().path()).max().unwrap()
}
