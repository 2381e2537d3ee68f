//! Measures the peak memory of a contender's steps, beyond what it held when it was ready.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::figures::STARTS;
use super::work::{Who, Work};
use super::{Bench, build};
use crate::commands::bench::contender::Contender;

/// The number of steps. The first may hold less, because later ones reuse the memory that it frees.
const STEPS: usize = 3;

/// The peaks of one process, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Peak {
    /// The pages of the process.
    pub resident: f64,
    /// Blocks of at least a KiB that are allocated and not freed, which are nearly all tensors.
    pub live: f64,
}

impl Bench<'_> {
    /// Measures several processes one after the other, because the timing of threads and the pages
    /// they touch differ. Fails on systems other than Linux, which do not report this.
    pub fn peaks(&self, who: Who, work: &Work) -> anyhow::Result<Vec<Peak>> {
        let peak = |_| Ok(Peak { resident: self.peak_resident(who, work)?, live: self.peak_live(who, work)? });
        (0..STARTS).map(peak).collect()
    }

    fn peak_resident(&self, who: Who, work: &Work) -> anyhow::Result<f64> {
        let mut contender = self.contender(who, work)?;
        let process = PathBuf::from(format!("/proc/{}", contender.process()));
        let before = status(&process, "VmRSS")?;
        // The peak is counted from here on.
        fs::write(process.join("clear_refs"), "5").context("cannot reset the peak of resident memory")?;
        contender.turn(STEPS - 1)?;
        Ok(status(&process, "VmHWM")? - before)
    }

    /// Measures in a separate process, whose blocks are counted.
    pub fn peak_live(&self, who: Who, work: &Work) -> anyhow::Result<f64> {
        let counter =
            build::compile(self.checkout, "live_bytes.cpp", "live_bytes.so", &["-shared", "-fPIC"].map(str::to_owned))?;
        let counts = LiveBytes::new(self.checkout.bench().join("live_bytes"))?;
        let mut command = self.command_of(&build::countable(self.checkout)?, who, work)?;
        command.env("LD_PRELOAD", counter).env("LIVE_BYTES", &counts.file);
        let mut contender = Contender::start(self.checkout, &format!("{who}, memory"), command)?;
        let before = counts.live()?;
        counts.reset_peak()?;
        contender.turn(STEPS - 1)?;
        Ok(counts.peak()? - before)
    }
}

/// A line of the process's `status`, in bytes.
fn status(process: &Path, name: &str) -> anyhow::Result<f64> {
    let text = fs::read_to_string(process.join("status")).context("memory is measured on Linux only")?;
    kib(&text, name).map(|kib| kib * 1024.).with_context(|| format!("the system does not tell {name}"))
}

fn kib(status: &str, name: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// The counts of `xtask/bench/live_bytes.cpp`: two 64-bit numbers.
struct LiveBytes {
    file: PathBuf,
    counts: File,
}

impl LiveBytes {
    fn new(file: PathBuf) -> anyhow::Result<Self> {
        fs::write(&file, [0; 16]).with_context(|| format!("cannot write {}", file.display()))?;
        let counts = File::options().read(true).write(true).open(&file)?;
        Ok(Self { file, counts })
    }

    fn read(&self, place: u64) -> anyhow::Result<f64> {
        let mut bytes = [0; 8];
        self.counts.read_exact_at(&mut bytes, place * 8)?;
        Ok(i64::from_ne_bytes(bytes) as f64)
    }

    fn live(&self) -> anyhow::Result<f64> {
        self.read(0)
    }

    fn peak(&self) -> anyhow::Result<f64> {
        self.read(1)
    }

    /// Reads the number while the process waits.
    fn reset_peak(&self) -> anyhow::Result<()> {
        let live = self.live()? as i64;
        Ok(self.counts.write_all_at(&live.to_ne_bytes(), 8)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_the_status() {
        let status = "Name:\tbench\nVmHWM:\t  123456 kB\nVmRSS:\t   1234 kB\n";
        assert_eq!((kib(status, "VmRSS"), kib(status, "VmHWM")), (Some(1234.), Some(123_456.)));
        assert_eq!(kib(status, "Vm"), None);
    }
}
