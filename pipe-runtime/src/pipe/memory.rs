use std::fmt;

use pipe_schedule::support::bytes;
use tch::Device;

use super::handle::Pipe;
use crate::error::Result;
use crate::model::Devices;
use crate::stages::Pipeline;
use crate::torch::{memory, reset_peaks};

/// Memory of a pipeline's accelerators.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryReport {
    /// The memory of each accelerator, in the order of the stages. CPU stages are not listed,
    /// because the CPU's allocator does not count.
    pub devices: Vec<DeviceMemory>,
}

/// Memory that one device's allocator has handed out to the whole process, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceMemory {
    /// The device.
    pub device: Device,
    /// Bytes in use now.
    pub allocated: u64,
    /// Peak of what is in use, since the process started or since the last
    /// [`reset_peaks`](Pipe::reset_peaks).
    pub peak_allocated: u64,
    /// Taken from the device now: in use, or cached by the allocator.
    pub reserved: u64,
    /// Peak of what is taken from the device.
    pub peak_reserved: u64,
}

impl<M: Pipeline> Pipe<M> {
    /// Measures the memory of the pipeline's accelerators: what is in use now, and the peaks.
    ///
    /// # Errors
    ///
    /// Fails if libtorch cannot read the allocator's numbers.
    pub fn memory(&self) -> Result<MemoryReport> {
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
        Ok(MemoryReport { devices })
    }

    /// Restarts the peaks of [`memory`](Self::memory) from what is in use now. The peaks are those
    /// of the process, so `torch`'s own functions see the restart too.
    ///
    /// # Errors
    ///
    /// Fails if libtorch cannot reset the allocator's numbers.
    pub fn reset_peaks(&self) -> Result<()> {
        Ok(self.accelerators().into_iter().try_for_each(reset_peaks)?)
    }

    /// The accelerators of the pipeline, without duplicates.
    fn accelerators(&self) -> Vec<Device> {
        let mut devices: Vec<Device> = Vec::new();
        for stage in &self.built().stages {
            if stage.device != Device::Cpu && !devices.contains(&stage.device) {
                devices.push(stage.device);
            }
        }
        devices
    }
}

impl fmt::Display for MemoryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |size: u64| bytes(size as f64);
        for memory in &self.devices {
            writeln!(
                f,
                "{}: {} in use, at its peak {}; {} taken, at its peak {}",
                Devices::new([memory.device]),
                text(memory.allocated),
                text(memory.peak_allocated),
                text(memory.reserved),
                text(memory.peak_reserved),
            )?;
        }
        Ok(())
    }
}
