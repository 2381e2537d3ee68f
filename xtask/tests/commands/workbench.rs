//! Gives each test a separate checkout, cache and PATH, with stand-ins for the programs that xtask
//! calls.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{fs, str};

pub struct Workbench {
    folder: PathBuf,
}

impl Workbench {
    /// Makes the folders, after removing what the test's last run left.
    pub fn new(test: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("xtask").join(test);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(folder.join("bin")).unwrap();
        let bench = Self { folder };
        bench.program("python3");
        bench.program("c++");
        bench.clone_named("checkout");
        bench
    }

    /// Puts a stand-in on the PATH, as a link: a file that one test has just written cannot be run
    /// while another test forks.
    pub fn program(&self, name: &str) {
        let stand_ins = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/commands/stand-ins");
        symlink(stand_ins.join(name), self.path("bin").join(name)).unwrap();
    }

    pub fn without_program(&self, name: &str) {
        fs::remove_file(self.path("bin").join(name)).unwrap();
    }

    /// Sets how the stand-in for pip behaves.
    pub fn mood(&self, mood: &str) {
        fs::write(self.path("bin/mood"), mood).unwrap();
    }

    pub fn clone_named(&self, name: &str) -> PathBuf {
        let root = self.path(name);
        fs::create_dir_all(root.join("xtask/programs")).unwrap();
        self.lock(name, "0.24.0");
        root
    }

    /// Gives a checkout, or a user's crate, a lock file with this tch.
    pub fn lock(&self, folder: &str, tch: &str) {
        let text = format!("[[package]]\nname = \"torch-sys\"\nversion = \"{tch}\"\n");
        fs::write(self.path(folder).join("Cargo.lock"), text).unwrap();
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.folder.join(below)
    }

    pub fn cached(&self) -> PathBuf {
        self.path("cache/pipe-libtorch/2.11.0-cpu")
    }

    /// The arguments of each call of pip, one line per call.
    pub fn pip_calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.path("bin/calls")).unwrap_or_default();
        calls.lines().map(str::to_owned).collect()
    }

    /// The names in a folder of the cache, without lock files, which are never removed.
    pub fn cache_entries(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path("cache").join(folder));
        let names = entries.into_iter().flatten().map(|entry| entry.unwrap().file_name());
        let names = names.map(|name| name.into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| !name.ends_with(".lock")).collect();
        names.sort();
        names
    }

    /// Makes a folder that passes for libtorch.
    pub fn libtorch(&self, name: &str, version: &str) -> PathBuf {
        let folder = self.path(name);
        fs::create_dir_all(folder.join("lib")).unwrap();
        fs::write(folder.join("lib/libtorch_cpu.so"), "").unwrap();
        let (major, minor) = version.split_once('.').unwrap();
        let text = format!("#define TORCH_VERSION_MAJOR {major}\n#define TORCH_VERSION_MINOR {minor}\n");
        for (header, text) in [("torch/headeronly/version.h", &*text), ("ATen/ATen.h", "#if __cplusplus < 201703L\n")] {
            let header = folder.join("include").join(header);
            fs::create_dir_all(header.parent().unwrap()).unwrap();
            fs::write(header, text).unwrap();
        }
        folder
    }

    pub fn xtask(&self, args: &[&str]) -> Command {
        self.xtask_in("checkout", args)
    }

    pub fn xtask_in(&self, checkout: &str, args: &[&str]) -> Command {
        let mut xtask = Command::new(env!("CARGO_BIN_EXE_xtask"));
        xtask
            .args(args)
            .env_remove("LIBTORCH")
            .env_remove("CXX")
            .env("CARGO_MANIFEST_DIR", self.path(checkout).join("xtask"))
            .env("PATH", self.path("bin"))
            .env("XDG_CACHE_HOME", self.path("cache"));
        xtask
    }
}

#[track_caller]
pub fn succeeds(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", all(&output));
    all(&output)
}

/// Runs a command that must fail. Returns the one error that it printed.
#[track_caller]
pub fn fails(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let all = all(&output);
    assert_eq!(output.status.code(), Some(1), "{all}");
    assert_eq!(all.matches("error: ").count(), 1, "{all}");
    all.split_once("error: ").unwrap().1.to_owned()
}

fn all(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| str::from_utf8(bytes).unwrap()).concat()
}
