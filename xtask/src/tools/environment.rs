//! A Python with a peer: a virtual environment in the per-user cache, or the user's own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::{env, fs};

use anyhow::{Context, bail};

use crate::tools::libtorch::Flavour;
use crate::tools::pip::Pip;
use crate::tools::{cache, disk, python};

/// The packages to install, and their place.
#[derive(Debug)]
pub struct Environment {
    /// The name in the cache.
    folder: &'static str,
    name: &'static str,
    /// The variable that names the user's own Python.
    own: &'static str,
    /// The packages, which are installed with all their dependencies: Python's part of torch links
    /// to CUDA's libraries, even on a machine without CUDA.
    wheels: &'static [&'static str],
    /// A Python program that fails if a package is missing.
    check: &'static str,
    /// The interpreter, once it was checked: importing torch takes seconds.
    found: OnceLock<Interpreter>,
}

#[derive(Clone, Debug)]
enum Interpreter {
    Own(PathBuf),
    Made(PathBuf),
}

/// torchgpipe on our libtorch, and that torch's pipelining, which needs numpy.
pub static TORCHGPIPE: Environment = Environment {
    folder: "pipe-oracle",
    name: "torchgpipe-0.0.7",
    own: "PIPE_ORACLE_PYTHON",
    wheels: &["numpy", "torch==2.11.0", "torchgpipe==0.0.7"],
    check: "import numpy, torch, torchgpipe
assert torch.__version__.startswith('2.11.'), 'torch ' + torch.__version__
assert torchgpipe.__version__ == '0.0.7', 'torchgpipe ' + torchgpipe.__version__",
    found: OnceLock::new(),
};

/// The last torch with `torch.distributed.pipeline.sync`.
pub static TORCH_PIPE: Environment = Environment {
    folder: "pipe-bench",
    name: "torch-2.3.1",
    own: "PIPE_BENCH_OLD_PYTHON",
    wheels: &["numpy<2", "torch==2.3.1"],
    check: "import torch.distributed.pipeline.sync
assert torch.__version__.startswith('2.3.1'), 'torch ' + torch.__version__",
    found: OnceLock::new(),
};

/// The newest torch when this was written, for its pipelining.
pub static NEWEST_TORCH: Environment = Environment {
    folder: "pipe-bench",
    name: "torch-2.15.0",
    own: "PIPE_BENCH_NEW_PYTHON",
    wheels: &["numpy", "torch==2.15.0"],
    check: "import numpy, torch.distributed.pipelining
assert torch.__version__.startswith('2.15.0'), 'torch ' + torch.__version__",
    found: OnceLock::new(),
};

impl Environment {
    /// Returns the interpreter, and makes it if there is none.
    pub fn python(&self) -> anyhow::Result<Command> {
        let interpreter = match self.found.get() {
            Some(found) => found,
            None => {
                let found = self.find()?;
                self.found.get_or_init(|| found)
            }
        };
        Ok(interpreter.command())
    }

    fn find(&self) -> anyhow::Result<Interpreter> {
        if let Some(own) = env::var_os(self.own).map(PathBuf::from) {
            let own = Interpreter::Own(own);
            if let Err(fault) = self.check(&own) {
                let program = own.command();
                let program = program.get_program().display();
                bail!(
                    "{}, set to `{program}`, has not what is needed ({fault}): run `{program} -m pip install {}`, or \
                     unset it, so that an environment is made",
                    self.own,
                    self.wheels.join(" ")
                );
            }
            return Ok(own);
        }
        let is_whole = |home: &Path| self.check(&Interpreter::Made(program(home))).is_ok();
        let install = |partial: &Path, home: &Path| self.install(partial, home);
        let home = cache::get(self.folder, self.name, is_whole, install)?;
        Ok(Interpreter::Made(program(&home)))
    }

    /// Checks that the packages can be imported. The error is Python's last line.
    fn check(&self, python: &Interpreter) -> Result<(), String> {
        let outcome = python.command().args(["-W", "ignore", "-c", self.check]).stdin(Stdio::null()).output();
        let output = outcome.map_err(|error| error.to_string())?;
        if output.status.success() {
            return Ok(());
        }
        let messages = String::from_utf8_lossy(&output.stderr);
        Err(messages.trim_end().lines().last().unwrap_or("it fails").to_owned())
    }

    fn install(&self, partial: &Path, home: &Path) -> anyhow::Result<()> {
        python::check()?;
        disk::check(home.parent().unwrap_or(home), Flavour::Cuda.space_needed())?;
        eprintln!("installing {} into {}", self.wheels.join(" and "), home.display());

        let made = partial.join("home");
        let venv = python::command()
            .args(["-m", "venv", "--without-pip"])
            .arg(&made)
            .output()
            .context("cannot start `python3`: try it by hand")?;
        if !venv.status.success() {
            bail!(
                "`python3` cannot make a virtual environment: install what it needs (Debian: `apt install python3-venv`), \
                 or set {} to a Python with {}\n{}",
                self.own,
                self.wheels.join(" and "),
                String::from_utf8_lossy(&venv.stderr).trim_end()
            );
        }
        Pip::into_environment(&program(&made), partial)?.args(self.wheels).run("torch")?;
        if let Err(fault) = self.check(&Interpreter::Made(program(&made))) {
            bail!(
                "what pip installed cannot be imported ({fault}): check that pip's index is PyPI, and run this again"
            );
        }
        if home.exists() {
            // It is damaged, or its Python no longer exists: a complete one would have been used.
            fs::remove_dir_all(home)
                .with_context(|| format!("cannot replace {}: remove it and run this again", home.display()))?;
        }
        fs::rename(&made, home).with_context(|| format!("cannot create {}: make its folder writable", home.display()))
    }
}

impl Interpreter {
    fn command(&self) -> Command {
        match self {
            Self::Own(program) => Command::new(program),
            Self::Made(program) => {
                let mut python = Command::new(program);
                python.env_remove("PYTHONPATH");
                python
            }
        }
    }
}

fn program(home: &Path) -> PathBuf {
    home.join("bin/python")
}
