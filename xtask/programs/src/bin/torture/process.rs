//! What the process takes of its machine.

use std::time::Duration;
use std::{fmt, fs, thread};

use anyhow::{Context, Result};
use pipe_tests::torture::resources;

/// Threads, open files, and bytes of memory.
#[derive(Clone, Copy, Debug)]
pub struct Resources {
    pub threads: usize,
    pub files: usize,
    pub memory: u64,
}

impl Resources {
    /// What the process takes. A thread that is ending counts for nothing, so the least of several
    /// looks is taken.
    pub fn now() -> Result<Self> {
        let looks = (0..10).map(|_| {
            thread::sleep(Duration::from_millis(2));
            resources()
        });
        let [threads, files] = looks.min().context("ten looks")?;
        let status = fs::read_to_string("/proc/self/status").context("/proc/self/status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a line VmRSS")?;
        let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse().context("a number of kB")?;
        Ok(Self { threads, files, memory: kilobytes << 10 })
    }
}

impl fmt::Display for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { threads, files, memory } = self;
        write!(f, "{threads} threads, {files} open files, {} MiB", memory >> 20)
    }
}
