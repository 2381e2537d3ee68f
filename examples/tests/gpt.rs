//! The GPT, ended early and resumed, or under another schedule, prints the same losses and writes
//! the same text; in bfloat16, nearly the same losses.

use std::process::Command;

/// Runs 8 steps, and returns what is printed.
fn run(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_gpt")).args(["--steps", "8"]).args(args).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    assert!(printed.contains("\nas by hand: true\ntwin: loss within 0.0"), "{printed}");
    printed
}

/// What is printed from the last step on: its loss, the held-out loss and the text.
fn end(printed: &str) -> &str {
    &printed[printed.find("step 8: ").expect("the last step")..]
}

fn loss(printed: &str) -> f64 {
    end(printed).lines().next().unwrap().split_once("loss ").unwrap().1.parse().unwrap()
}

#[test]
fn a_training_that_is_stopped_and_resumed_ends_with_the_same_loss_and_text() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = ["--checkpoints", folder.path().to_str().unwrap()];
    let stopped = run(&[&checkpoints[..], &["--stop-after", "3"]].concat());
    assert!(stopped.contains("\nstep 3: ") && !stopped.contains("\nstep 4: "), "{stopped}");
    let resumed = run(&checkpoints);
    assert!(resumed.contains("\ngoes on after step 3\nstep 4: "), "{resumed}");
    assert_eq!(end(&resumed), end(&run(&[])));
}

#[test]
fn another_schedule_changes_nothing_and_bfloat16_little() {
    let whole = run(&[]);
    assert_eq!(run(&["--schedule", "zb_h1"]), whole);
    let half = run(&["--bf16"]);
    assert_ne!(half, whole);
    assert!((loss(&half) - loss(&whole)).abs() < 0.02, "{half}{whole}");
}
