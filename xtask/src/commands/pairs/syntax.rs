//! Checks the shim's syntax against the headers of each cached libtorch, so that a change that only
//! the pinned one accepts is noticed before the pairs are run.

use std::path::Path;

use anyhow::{Context, anyhow};
use pipe_libtorch::compiler::Compiler;

use crate::tools::checkout::Checkout;
use crate::tools::libtorch::{self, Flavour, WHEELS, Wheel};
use crate::tools::tally::Tally;

/// Checks all except the one that the tests ran with, prints the results like those of tests, and
/// counts them.
pub fn check(checkout: &Checkout, tally: &mut Tally) -> anyhow::Result<()> {
    let tested = pipe_libtorch::Version::of_libtorch(&checkout.linked_libtorch());
    for wheel in WHEELS.iter().filter(|wheel| Some(wheel.minor()) != tested) {
        let outcome = match libtorch::cached(wheel, Flavour::Cpu) {
            None => None,
            Some(home) => Some(compile(checkout, &home.join("torch"))?),
        };
        tell(wheel, outcome.as_ref());
        tally.count(outcome.map(|outcome| outcome.is_ok()));
    }
    Ok(())
}

fn tell(wheel: &Wheel, outcome: Option<&Result<(), String>>) {
    let minor = wheel.minor();
    let verdict = match outcome {
        None => "ignored, not in the cache: `cargo xtask pairs` installs it",
        Some(Ok(())) => "ok",
        Some(Err(_)) => "FAILED",
    };
    println!("test the shim compiles against libtorch {minor} ... {verdict}");
    if let Some(Err(messages)) = outcome {
        println!("{messages}");
    }
}

/// The errors of the compiler.
fn compile(checkout: &Checkout, folder: &Path) -> anyhow::Result<Result<(), String>> {
    let compiler = Compiler::find().map_err(|fault| anyhow!(fault))?;
    let mut command = compiler.command();
    command.args(pipe_libtorch::flags(folder).map_err(|fault| anyhow!(fault))?);
    // Declares what the shim uses of mimalloc, whose own header is in another crate.
    command.arg("-I").arg(checkout.root.join("xtask/pairs"));
    command.arg("-fsyntax-only").arg(checkout.root.join("pipe-runtime/src/torch/shim/shim.cpp"));
    let output = command.output().with_context(|| format!("cannot start {compiler}"))?;
    let messages = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok(if output.status.success() { Ok(()) } else { Err(messages) })
}
