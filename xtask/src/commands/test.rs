//! `cargo xtask test`: runs all tests of the workspace, and sums them up in one line at the end.

use std::io::{self, Read, Write};
use std::process::{Command, ExitCode, ExitStatus, Stdio};

use anyhow::Context;

use crate::commands::pairs::{self, Trial};
use crate::tools::checkout::Checkout;
use crate::tools::libtorch::Flavour;
use crate::tools::tally::Tally;
use crate::tools::{cargo, digits, libtorch, mpi};

/// The variables that make trybuild and expect-test rewrite their expected output.
const BLESS: [(&str, &str); 2] = [("TRYBUILD", "overwrite"), ("UPDATE_EXPECT", "1")];

pub fn run(checkout: &Checkout, bless: bool) -> anyhow::Result<ExitCode> {
    libtorch::set_up(checkout, Flavour::Cpu)?;
    let (status, mut tally) = run_in(checkout, None, bless)?;
    pairs::check_syntax(checkout, &mut tally)?;
    println!("{tally}");
    let code = cargo::exit_code(status);
    Ok(if status.success() && tally.has_failures() { ExitCode::FAILURE } else { code })
}

/// Runs the tests with another tch or libtorch than the pinned ones.
pub fn run_trial(checkout: &Checkout, trial: &Trial) -> anyhow::Result<ExitCode> {
    let (status, tally) = trial.test(checkout)?;
    println!("{tally}");
    Ok(cargo::exit_code(status))
}

/// Runs the tests of a checkout in which libtorch is set up.
pub fn run_in(checkout: &Checkout, trial: Option<&Trial>, bless: bool) -> anyhow::Result<(ExitStatus, Tally)> {
    digits::set_up(checkout)?;
    for mpi in [mpi::OPEN_MPI, mpi::MPICH] {
        mpi.set_up()?;
    }
    let mut cargo = cargo_test(checkout, bless);
    if let Some(trial) = trial {
        trial.adapt(checkout, &mut cargo);
    }
    watch(&mut cargo, &mut io::stdout().lock())
}

fn cargo_test(checkout: &Checkout, bless: bool) -> Command {
    let mut cargo = cargo::command(checkout);
    // Without `--no-fail-fast`, the sum would lack everything after the first failure.
    cargo.args(["test", "--workspace", "--no-fail-fast"]);
    if bless {
        cargo.envs(BLESS);
    }
    cargo
}

/// Runs cargo to its end, and counts the tests.
pub fn watch(cargo: &mut Command, stdout: &mut impl Write) -> anyhow::Result<(ExitStatus, Tally)> {
    let mut child = cargo.stdout(Stdio::piped()).spawn().context(cargo::CANNOT_START)?;
    let mut tally = Tally::default();
    if let Some(output) = child.stdout.take() {
        pass_on(output, stdout, &mut tally).context("cannot pass on what the tests print")?;
    }
    let status = child.wait().context("lost sight of cargo: run this again")?;
    Ok((status, tally))
}

/// Passes output on as it arrives, not line by line: a test's name appears before its result.
fn pass_on(mut output: impl Read, stdout: &mut impl Write, tally: &mut Tally) -> io::Result<()> {
    let mut chunk = [0; 4096];
    loop {
        let read = match output.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        stdout.write_all(&chunk[..read])?;
        stdout.flush()?;
        tally.add(&chunk[..read]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_and_exit_code_are_passed_on_and_tests_counted() {
        const OUTPUT: &str = "test a ... ok\ntest result: FAILED. 1 passed; 2 failed; 3 ignored; 0 measured\n";
        let mut shown = Vec::new();
        let mut cargo = Command::new("sh");
        cargo.args(["-c", "printf '%s' \"$1\"; exit 101", "sh", OUTPUT]);
        let (status, tally) = watch(&mut cargo, &mut shown).unwrap();
        assert_eq!(status.code(), Some(101));
        assert_eq!(shown, OUTPUT.as_bytes());
        assert_eq!(tally.to_string(), "1 passed, 2 failed, 3 skipped");
    }

    #[test]
    fn only_bless_adds_to_the_environment() {
        let added = |bless| {
            let cargo = cargo_test(&Checkout { root: "/".into() }, bless);
            cargo.get_envs().filter(|(_, value)| value.is_some()).map(|(name, _)| name.to_owned()).collect::<Vec<_>>()
        };
        let unblessed = added(false);
        assert!(unblessed.iter().all(|name| name.to_string_lossy().ends_with("LIBRARY_PATH")));
        for (name, _) in BLESS {
            assert!(added(true).contains(&name.into()), "{name}");
        }
    }
}
