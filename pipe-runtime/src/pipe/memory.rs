use std::fmt;

use pipe_schedule::support::bytes;
use tch::Device;

use super::handle::Pipe;
use crate::error::Result;
use crate::model::Devices;
use crate::stages::Pipeline;
use crate::torch::{ByHolder, Holder, memory, reset_peaks};

/// Memory of a pipeline's accelerators, and of its stages on a CPU.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryReport {
    /// The memory of each accelerator, in the order of the stages. CPU stages are not listed,
    /// because the CPU's allocator does not count.
    pub devices: Vec<DeviceMemory>,
    /// The memory of each rank whose stages are on a CPU, as the last trace has measured it. Empty
    /// before the first [`stop_trace`](Pipe::stop_trace).
    pub ranks: Vec<RankMemory>,
}

/// What the tensors of a rank (a stage, or several where the schedule has several per rank) took
/// when they took most, in bytes, by what held them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RankMemory {
    /// The rank's stages.
    pub stages: Vec<usize>,
    /// The variables.
    pub parameters: u64,
    /// What the pipeline's own [`Optimizer`](crate::Optimizer)s keep of the rank's stages now; 0
    /// without one. The state of other optimizers, such as tch's, is not known.
    pub optimizer: u64,
    /// The sums of the parameters' gradients.
    pub gradients: u64,
    /// Inputs from which the rank would recompute.
    pub inputs: u64,
    /// What graphs have saved, and what the forward that ran worked with.
    pub saved: u64,
    /// Values and gradients that were sent to a stage and not used yet.
    pub under_way: u64,
    /// What the backward that ran worked with.
    pub working: u64,
    /// The peak according to the simulation of the traced step, with what the optimizer keeps now.
    pub simulated: u64,
}

impl RankMemory {
    /// The peak: the sum of all.
    pub fn peak(&self) -> u64 {
        let kept = self.parameters + self.optimizer + self.gradients + self.inputs;
        kept + self.saved + self.under_way + self.working
    }
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
    /// Measures the memory of the pipeline's accelerators: what is in use now, and the peaks. For
    /// stages on a CPU, reports what the last trace has measured, beside what its simulation says.
    ///
    /// ```no_run
    /// # use pipe_runtime::{Pipe, Pipeline, Result};
    /// # fn example<M: Pipeline>(pipe: &mut Pipe<M>, step: fn(&mut Pipe<M>)) -> Result<()> {
    /// pipe.start_trace();
    /// step(pipe);
    /// pipe.stop_trace()?;
    /// println!("{}", pipe.memory()?);
    /// # Ok(())
    /// # }
    /// ```
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
        Ok(MemoryReport { devices, ranks: self.ranks() })
    }

    fn ranks(&self) -> Vec<RankMemory> {
        let built = self.built();
        let kept = built.optimizer_bytes();
        let rank = |(rank, (held, simulated)): (usize, (ByHolder, f64))| {
            let stages = (0..built.stages.len()).filter(|&stage| built.rank_of()[stage] == rank);
            let stages: Vec<_> = stages.collect();
            let of = |holder: Holder| held[holder as usize].unsigned_abs();
            let optimizer = stages.iter().map(|&stage| kept[stage]).sum();
            RankMemory {
                optimizer,
                parameters: stages.iter().map(|&stage| self.core.parameter_bytes[stage].0).sum(),
                stages,
                gradients: of(Holder::Gradient),
                inputs: of(Holder::Input),
                saved: of(Holder::Saved),
                under_way: of(Holder::UnderWay),
                working: of(Holder::Working),
                simulated: simulated as u64 + optimizer,
            }
        };
        let is_measured = |&stage: &usize| built.stages[stage].device == Device::Cpu && built.is_here(stage);
        let ranks = built.recorder.held().into_iter().enumerate().map(rank);
        ranks.filter(|rank| rank.stages.iter().any(is_measured)).collect()
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
        for (number, memory) in self.ranks.iter().enumerate() {
            let parts = [
                ("parameters", memory.parameters),
                ("optimizer", memory.optimizer),
                ("gradients", memory.gradients),
                ("kept inputs", memory.inputs),
                ("saved", memory.saved),
                ("under way", memory.under_way),
                ("working", memory.working),
            ];
            let parts = parts.map(|(name, size)| format!("{name} {}", text(size))).join(", ");
            let (peak, simulated) = (text(memory.peak()), text(memory.simulated));
            writeln!(f, "rank {number}: at its peak {peak} ({parts}); simulated {simulated}")?;
        }
        Ok(())
    }
}
