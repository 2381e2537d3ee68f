//! Builds the programs that are measured.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use anyhow::{Context, bail};

use crate::tools::cargo;
use crate::tools::checkout::Checkout;

#[derive(Debug)]
pub struct Programs {
    /// Our contender.
    pub ours: PathBuf,
    /// Bare libtorch.
    pub bare: PathBuf,
    /// The program that saves and loads.
    pub checkpoint: PathBuf,
}

impl Programs {
    pub fn build(checkout: &Checkout, libtorch: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            ours: ours(checkout, "ours", &[])?,
            bare: bare(checkout, libtorch)?,
            checkpoint: program(checkout, "checkpoint", "checkpoint", &[])?,
        })
    }
}

/// Our contender with the C library's allocator, whose blocks can be counted.
pub fn countable(checkout: &Checkout) -> anyhow::Result<PathBuf> {
    ours(checkout, "countable", &["--no-default-features"])
}

/// Builds our contender under this name.
pub fn ours(checkout: &Checkout, name: &str, flags: &[&str]) -> anyhow::Result<PathBuf> {
    program(checkout, "bench", name, flags)
}

/// Builds a program as a user would, and copies it to a separate name, because cargo has one place
/// for all of its variants.
fn program(checkout: &Checkout, program: &str, name: &str, flags: &[&str]) -> anyhow::Result<PathBuf> {
    // Another checkout may be older than the package; then the program is among its examples.
    let package = if checkout.programs().is_dir() { "pipe-programs" } else { "pipe-examples" };
    let mut cargo = cargo::command(checkout);
    cargo.args(["build", "--release", "--quiet", "-p", package, "--bin", program]).args(flags);
    cargo.arg("--message-format=json-render-diagnostics").stderr(Stdio::inherit());
    let output = cargo.output().context(cargo::CANNOT_START)?;
    if !output.status.success() {
        bail!("the contender cannot be built: see what cargo says above");
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let built = executable(&messages).context("cargo does not say where it has put the contender")?;
    let program = checkout.bench().join(name);
    let partial = program.with_extension("partial");
    fs::create_dir_all(checkout.bench())
        .and_then(|()| fs::copy(&built, &partial))
        // It is replaced in one step, because the previous one may still be running.
        .and_then(|_| fs::rename(&partial, &program))
        .with_context(|| format!("cannot create {}", program.display()))?;
    Ok(program)
}

/// The one program that cargo built, according to its messages.
fn executable(messages: &str) -> Option<PathBuf> {
    let (_, after) = messages.split_once("\"executable\":\"")?;
    Some(after.split_once('"')?.0.into())
}

fn bare(checkout: &Checkout, libtorch: &Path) -> anyhow::Result<PathBuf> {
    let libraries = libtorch.join("lib");
    let include = libtorch.join("include");
    let mut flags: Vec<String> =
        [&include, &include.join("torch/csrc/api/include")].map(|folder| format!("-I{}", folder.display())).into();
    flags.extend([format!("-L{}", libraries.display()), format!("-Wl,-rpath,{}", libraries.display())]);
    flags.extend(["-std=c++17", "-Wl,--no-as-needed", "-ltorch_cpu", "-lc10"].map(str::to_owned));
    compile(checkout, "bare.cpp", "bare", &flags)
}

/// Compiles a file of `xtask/bench`, unless it has not changed since the last time.
pub fn compile(checkout: &Checkout, source: &str, name: &str, flags: &[String]) -> anyhow::Result<PathBuf> {
    let source = checkout.root.join("xtask/bench").join(source);
    let program = checkout.bench().join(name);
    let changed = |file: &Path| fs::metadata(file).and_then(|file| file.modified()).ok();
    if changed(&program).is_some_and(|made| changed(&source).is_some_and(|changed| changed < made)) {
        return Ok(program);
    }
    fs::create_dir_all(checkout.bench()).with_context(|| format!("cannot create {}", checkout.bench().display()))?;
    let compiler = env::var_os("CXX").unwrap_or_else(|| "c++".into());
    let output = Command::new(&compiler).arg("-O2").arg(&source).arg("-o").arg(&program).args(flags).output();
    let output = output.with_context(|| format!("cannot start {}", compiler.display()))?;
    if !output.status.success() {
        bail!("{} cannot be compiled:\n{}", source.display(), String::from_utf8_lossy(&output.stderr));
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_found_in_cargos_messages() {
        let messages = "{\"reason\":\"compiler-artifact\",\"executable\":null}\n\
                        {\"reason\":\"compiler-artifact\",\"executable\":\"/t/release/bench\",\"fresh\":true}\n";
        assert_eq!(executable(messages), Some("/t/release/bench".into()));
        assert_eq!(executable("{}"), None);
    }
}
