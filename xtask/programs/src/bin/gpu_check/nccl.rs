//! NCCL on this machine. It refuses two processes on one GPU, so this one is alone.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use pipe_comm::nccl::Nccl;
use tch::Device;

use crate::table::{Table, Verdict};

const NAME: &str = "NCCL: a communicator of this process alone, made and aborted";

pub fn check(gpus: &[Device], table: &mut Table) -> Result<()> {
    if gpus.is_empty() {
        table.skip(NAME, "there is no GPU");
        return Ok(());
    }
    match Nccl::open()? {
        None => table.skip(NAME, "there is no libnccl.so.2"),
        Some(nccl) => {
            let start = Instant::now();
            let mut communicator = nccl.connect(&nccl.unique_id()?, 0, 1)?;
            while !communicator.is_ready()? {
                ensure!(start.elapsed() < Duration::from_secs(60), "NCCL did not make a communicator in a minute");
                std::thread::sleep(Duration::from_millis(1));
            }
            drop(communicator);
            let known = if nccl.device_id(0).is_some() { "is known" } else { "is not known" };
            let detail =
                format!("version {}, {:.2?}, the device's own number {known}", nccl.version(), start.elapsed());
            table.add(NAME, Verdict::Passed, detail);
        }
    }
    Ok(())
}
