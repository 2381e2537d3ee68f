//! Python is needed only for pip. Its version does not matter, because pip is told which wheels to
//! take.

use std::io;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

pub fn command() -> Command {
    let mut python = Command::new("python3");
    python.stdin(Stdio::null());
    python
}

/// Fails if there is no Python or it has no pip.
pub fn check() -> anyhow::Result<()> {
    let pip = match command().args(["-m", "pip", "--version"]).output() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => bail!(
            "there is no `python3`, which downloads what is needed: install it (Debian: \
             `apt install python3 python3-pip`), or set LIBTORCH to a libtorch of your own"
        ),
        outcome => outcome.context("`python3` cannot be run: make it executable")?,
    };
    if !pip.status.success() {
        bail!(
            "`python3` has no working pip: install it (Debian: `apt install python3-pip`; elsewhere: \
             `python3 -m ensurepip`), or activate a virtual environment that has it"
        );
    }
    Ok(())
}
