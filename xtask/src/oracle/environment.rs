//! A Python with torchgpipe: a virtual environment in the per-user cache, or the user's own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use anyhow::{Context, bail};

use crate::libtorch::Flavour;
use crate::pip::Pip;
use crate::{cache, disk, python};

const OWN: &str = "PIPE_ORACLE_PYTHON";
/// With all that it depends on: Python's part of torch links to CUDA's libraries, on a machine without CUDA too.
const WHEELS: [&str; 2] = ["torch==2.11.0", "torchgpipe==0.0.7"];
const CHECK: &str = "import torch, torchgpipe
assert torch.__version__.startswith('2.11.'), 'torch ' + torch.__version__
assert torchgpipe.__version__ == '0.0.7', 'torchgpipe ' + torchgpipe.__version__";

/// The interpreter, made now if there is none.
pub fn python() -> anyhow::Result<Command> {
    if let Some(own) = env::var_os(OWN).map(PathBuf::from) {
        if let Err(fault) = check(Command::new(&own)) {
            bail!(
                "{OWN}, set to `{}`, has not what is needed ({fault}): run `{} -m pip install {}`, or unset it, \
                 so that an environment is made",
                own.display(),
                own.display(),
                WHEELS.join(" ")
            );
        }
        return Ok(Command::new(own));
    }
    let is_whole = |home: &Path| check(interpreter(home)).is_ok();
    Ok(interpreter(&cache::get("pipe-oracle", "torchgpipe-0.0.7", is_whole, install)?))
}

fn interpreter(home: &Path) -> Command {
    let mut python = Command::new(program(home));
    python.env_remove("PYTHONPATH");
    python
}

fn program(home: &Path) -> PathBuf {
    home.join("bin/python")
}

/// Whether what is needed can be imported; Python's last word if not.
fn check(mut python: Command) -> Result<(), String> {
    let outcome = python.args(["-W", "ignore", "-c", CHECK]).stdin(Stdio::null()).output();
    let output = outcome.map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let messages = String::from_utf8_lossy(&output.stderr);
    Err(messages.trim_end().lines().last().unwrap_or("it fails").to_owned())
}

fn install(partial: &Path, home: &Path) -> anyhow::Result<()> {
    python::check()?;
    disk::check(home.parent().unwrap_or(home), Flavour::Cuda.space_needed())?;
    eprintln!("installing {} into {}", WHEELS.join(" and "), home.display());

    let made = partial.join("home");
    let venv = python::command()
        .args(["-m", "venv", "--without-pip"])
        .arg(&made)
        .output()
        .context("cannot start `python3`: try it by hand")?;
    if !venv.status.success() {
        bail!(
            "`python3` cannot make a virtual environment: install what it needs (Debian: `apt install python3-venv`), \
             or set {OWN} to a Python with {}\n{}",
            WHEELS.join(" and "),
            String::from_utf8_lossy(&venv.stderr).trim_end()
        );
    }
    Pip::into_environment(&program(&made), partial)?.args(WHEELS).run("torchgpipe")?;
    if let Err(fault) = check(interpreter(&made)) {
        bail!("what pip installed cannot be imported ({fault}): check that pip's index is PyPI, and run this again");
    }
    if home.exists() {
        // A damaged one, or one of a Python that is gone: a whole one would have been used.
        fs::remove_dir_all(home)
            .with_context(|| format!("cannot replace {}: remove it and run this again", home.display()))?;
    }
    fs::rename(&made, home).with_context(|| format!("cannot create {}: make its folder writable", home.display()))
}
