//! The GPT, ended early and resumed, or under another schedule, prints the same losses and writes
//! the same text; in bfloat16, nearly the same losses.

use std::process::Command;

/// Runs 8 steps, and returns what is printed from the last step on.
fn end(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_gpt")).args(["--steps", "8"]).args(args).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    assert!(printed.contains("\nas by hand: true\n"), "{printed}");
    let last = printed.find("step 8: ").or_else(|| printed.find("step 3: ")).expect("a last step");
    printed[last..].to_owned()
}

fn loss(end: &str) -> f64 {
    end.lines().next().unwrap().split_once("loss ").unwrap().1.parse().unwrap()
}

#[test]
fn a_training_that_is_stopped_and_resumed_ends_with_the_same_loss_and_text() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = ["--checkpoints", folder.path().to_str().unwrap()];
    let whole = end(&[]);
    let stopped = end(&[checkpoints, ["--stop-after", "3"]].concat());
    assert!(stopped.starts_with("step 3: "), "{stopped}");
    assert_eq!(end(&checkpoints), whole);
}

#[test]
fn another_schedule_changes_nothing_and_bfloat16_little() {
    let whole = end(&[]);
    assert_eq!(end(&["--schedule", "zb_h1"]), whole);
    let half = end(&["--bf16"]);
    assert_ne!(half, whole);
    assert!((loss(&half) - loss(&whole)).abs() < 0.02, "{half}{whole}");
}
