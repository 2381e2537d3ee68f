use std::fmt;

use tch::Device;

use super::handle::Pipe;
use crate::error::Result;
use crate::model::Devices;
use crate::stages::Pipeline;
use crate::torch::{memory, reset_peaks};

/// What a pipeline holds on its devices.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PipeReport {
    /// The memory of each accelerator, in the order of the stages. The CPU's allocator keeps no count, so there is none of it.
    pub devices: Vec<DeviceMemory>,
}

/// What the allocator of one device has handed out, in bytes, to the whole process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceMemory {
    /// The device.
    pub device: Device,
    /// In use now.
    pub allocated: u64,
    /// In use at most, since the process started or the last [`reset_peaks`](Pipe::reset_peaks).
    pub peak_allocated: u64,
    /// Taken from the device now, in use or kept for later.
    pub reserved: u64,
    /// Taken from the device at most.
    pub peak_reserved: u64,
}

impl<M: Pipeline> Pipe<M> {
    /// What the pipeline's accelerators hold, now and at most.
    ///
    /// # Errors
    ///
    /// If libtorch cannot say.
    pub fn report(&self) -> Result<PipeReport> {
        let mut devices = Vec::new();
        for device in self.accelerators() {
            if let Some(found) = memory(device)? {
                devices.push(DeviceMemory {
                    device,
                    allocated: found.allocated.unsigned_abs(),
                    peak_allocated: found.peak_allocated.unsigned_abs(),
                    reserved: found.reserved.unsigned_abs(),
                    peak_reserved: found.peak_reserved.unsigned_abs(),
                });
            }
        }
        Ok(PipeReport { devices })
    }

    /// Lets the peaks of [`report`](Self::report) start again from what is in use now. They are the process's: `torch`'s own functions see this too.
    ///
    /// # Errors
    ///
    /// If libtorch cannot.
    pub fn reset_peaks(&self) -> Result<()> {
        Ok(self.accelerators().into_iter().try_for_each(reset_peaks)?)
    }

    /// Each once.
    fn accelerators(&self) -> Vec<Device> {
        let mut devices: Vec<Device> = Vec::new();
        for stage in &self.network().stages {
            if stage.device != Device::Cpu && !devices.contains(&stage.device) {
                devices.push(stage.device);
            }
        }
        devices
    }
}

impl fmt::Display for PipeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        for memory in &self.devices {
            writeln!(
                f,
                "{}: {:.1} MiB in use, {:.1} at most; {:.1} MiB taken, {:.1} at most",
                Devices::new([memory.device]),
                mib(memory.allocated),
                mib(memory.peak_allocated),
                mib(memory.reserved),
                mib(memory.peak_reserved),
            )?;
        }
        Ok(())
    }
}
