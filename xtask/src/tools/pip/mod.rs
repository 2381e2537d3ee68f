//! Runs pip in a separate folder, with progress and clear errors.

mod failure;
mod progress;

use std::ffi::OsStr;
use std::fs;
use std::io::{IsTerminal, Read, stdout};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, anyhow};

use crate::tools::python;

/// The version of Python whose wheels are fetched if only their files are used, whichever Python
/// runs pip.
const WHEELS_FOR: &str = "3.12";

pub struct Pip {
    command: Command,
    folder: PathBuf,
    has_bar: bool,
}

impl Pip {
    /// Makes a command `pip <action>` that keeps its temporary files in `folder`: `/tmp` may be too
    /// small, and what an interrupted pip leaves there would stay.
    pub fn new(action: &str, folder: &Path) -> anyhow::Result<Self> {
        let mut pip = Self::start(&[action.as_ref()], folder)?;
        pip.args(["--python-version", WHEELS_FOR]);
        Ok(pip)
    }

    /// Makes a command `pip install` for the virtual environment of this interpreter, with wheels
    /// for its version.
    pub fn into_environment(python: &Path, folder: &Path) -> anyhow::Result<Self> {
        Self::start(&["--python".as_ref(), python.as_ref(), "install".as_ref()], folder)
    }

    fn start(action: &[&OsStr], folder: &Path) -> anyhow::Result<Self> {
        let temporary = folder.join("tmp");
        fs::create_dir_all(&temporary)
            .with_context(|| format!("cannot create {}: make it writable", temporary.display()))?;
        let has_bar = stdout().is_terminal();
        let mut command = python::command();
        command
            .args(["-m", "pip"])
            .args(action)
            .arg("--disable-pip-version-check")
            // pip's cache would keep a second copy of the wheels, and reads them into memory as a
            // whole.
            .args(["--no-cache-dir", "--only-binary=:all:"])
            .env("TMPDIR", temporary)
            // Settings of the user that cannot be combined with `--target`.
            .env("PIP_USER", "0")
            .env("PIP_REQUIRE_VIRTUALENV", "0");
        if !has_bar {
            command.args(["--quiet", "--progress-bar", "off"]);
        }
        Ok(Self { command, folder: folder.to_path_buf(), has_bar })
    }

    pub fn arg(&mut self, arg: impl AsRef<OsStr>) -> &mut Self {
        self.command.arg(arg);
        self
    }

    pub fn args<A: AsRef<OsStr>>(&mut self, args: impl IntoIterator<Item = A>) -> &mut Self {
        self.command.args(args);
        self
    }

    /// Runs the command to its end. `what` describes what is fetched.
    pub fn run(&mut self, what: &str) -> anyhow::Result<()> {
        // On a terminal, pip draws a bar. Elsewhere, it would be silent for minutes.
        self.command.stdout(if self.has_bar { Stdio::inherit() } else { Stdio::null() });
        self.command.stderr(Stdio::piped());
        let mut pip = self.command.spawn().context("cannot start `python3 -m pip`: try it by hand")?;
        let mut stderr = pip.stderr.take();
        let messages = thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(stderr) = &mut stderr {
                // Only what was read so far can be shown.
                let _ = stderr.read_to_end(&mut bytes);
            }
            String::from_utf8_lossy(&bytes).into_owned()
        });
        let report = (!self.has_bar).then_some((what, self.folder.as_path()));
        let status = progress::wait(&mut pip, report).context("lost sight of pip: run this again")?;
        let messages = messages.join().unwrap_or_default();
        if status.success() { Ok(()) } else { Err(anyhow!(failure::explain(what, &messages))) }
    }
}
