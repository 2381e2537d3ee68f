//! `cargo xtask gpu-check`: checks that pipelining works on this machine's GPUs or, with
//! `--bundle`, on a machine without Rust.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};

use crate::tools::checkout::Checkout;
use crate::tools::libtorch::Flavour;
use crate::tools::{cargo, libtorch};

const PROGRAM: &str = "gpu_check";
/// The files of the bundle beside the program.
const SCRIPTS: [&str; 3] = ["run", "unet_torchgpipe.py", "adamw_torch.py"];

pub fn run(checkout: &Checkout, bundle: Option<&Path>, args: &[OsString]) -> anyhow::Result<ExitCode> {
    libtorch::set_up(checkout, Flavour::Cpu)?;
    let Some(bundle) = bundle else {
        let status = cargo_command(checkout, "run").arg("--").args(args).status().context(cargo::CANNOT_START)?;
        return Ok(cargo::exit_code(status));
    };
    if !args.is_empty() {
        bail!("arguments are for the run, not for the bundle: give them to `{}/run`", bundle.display());
    }
    let mut build = cargo_command(checkout, "build");
    build.args(["--message-format", "json-render-diagnostics"]).stdout(std::process::Stdio::piped());
    let output = build.spawn().and_then(std::process::Child::wait_with_output).context(cargo::CANNOT_START)?;
    if !output.status.success() {
        return Ok(cargo::exit_code(output.status));
    }
    let program =
        built(&String::from_utf8_lossy(&output.stdout)).context("cargo did not say where it put the program")?;
    fill(&checkout.root.join("xtask/gpu-check"), &program, bundle)?;
    let libtorch = libtorch::wheel(checkout)?.minor();
    println!("{} is complete: copy it to a machine with libtorch {libtorch}, and start `run` in it", bundle.display());
    Ok(ExitCode::SUCCESS)
}

fn cargo_command(checkout: &Checkout, command: &str) -> Command {
    let mut cargo = cargo::command(checkout);
    cargo.args([command, "--release", "-p", "pipe-programs", "--bin", PROGRAM]);
    cargo
}

/// The program's path, from cargo's messages. Each message is a line of JSON, and one of them has
/// the path.
fn built(messages: &str) -> Option<PathBuf> {
    let path = |line: &str| Some(PathBuf::from(line.split_once("\"executable\":\"")?.1.split_once('"')?.0));
    messages.lines().filter_map(path).find(|path| path.file_stem().is_some_and(|name| name == PROGRAM))
}

fn fill(scripts: &Path, program: &Path, bundle: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(bundle).with_context(|| format!("cannot create {}", bundle.display()))?;
    let copy = |from: &Path, name: &str| {
        let to = bundle.join(name);
        fs::copy(from, &to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
    };
    copy(program, PROGRAM)?;
    for name in SCRIPTS {
        copy(&scripts.join(name), name)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_path_is_read_from_cargos_messages() {
        let messages = "{\"reason\":\"compiler-artifact\",\"executable\":null}\n\
                        {\"reason\":\"compiler-artifact\",\"executable\":\"/t/release/build-script-build\"}\n\
                        not json\n\
                        {\"reason\":\"compiler-artifact\",\"executable\":\"/t/release/gpu_check\"}\n";
        assert_eq!(built(messages), Some("/t/release/gpu_check".into()));
        assert_eq!(built(""), None);
    }

    #[test]
    fn the_bundle_holds_the_program_and_what_starts_it() {
        let folder = std::env::temp_dir().join(format!("pipe-bundle-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let program = folder.join("built");
        fs::write(&program, "program").unwrap();
        let bundle = folder.join("new/bundle");
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("gpu-check");
        fill(&scripts, &program, &bundle).unwrap();
        assert!(SCRIPTS.iter().chain(&[PROGRAM]).all(|name| bundle.join(name).is_file()));
        assert_eq!(fs::read(bundle.join("run")).unwrap(), fs::read(scripts.join("run")).unwrap());
        fs::remove_dir_all(folder).unwrap();
    }
}
