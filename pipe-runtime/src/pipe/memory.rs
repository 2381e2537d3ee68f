use std::fmt;

use pipe_schedule::support::bytes;
use tch::Device;

use super::handle::Pipe;
use crate::error::Result;
use crate::model::Devices;
use crate::run::Held;
use crate::stages::Pipeline;
use crate::torch::{Holder, memory, reset_peaks};

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

/// What the tensors of a rank took when they took most, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RankMemory {
    /// The rank.
    pub rank: usize,
    /// What each of the rank's stages took of it: one, or several where the schedule has several
    /// stages per rank.
    pub stages: Vec<StageMemory>,
    /// The peak according to the simulation of the traced step, with what the optimizer keeps now.
    pub simulated: u64,
}

/// What the tensors of a stage took when its rank took most, in bytes, by what held them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StageMemory {
    /// The stage.
    pub stage: usize,
    /// The variables.
    pub parameters: u64,
    /// What the pipeline's own [`Optimizer`](crate::Optimizer)s keep of the stage now; 0 without
    /// one. The state of other optimizers, such as tch's, is not known.
    pub optimizer: u64,
    /// The sums of the parameters' gradients.
    pub gradients: u64,
    /// Inputs from which the stage would recompute.
    pub inputs: u64,
    /// What graphs have saved, and what the forward that ran worked with.
    pub saved: u64,
    /// Values and gradients that were sent to the stage and not used yet.
    pub under_way: u64,
    /// What the backward that ran worked with.
    pub working: u64,
}

impl RankMemory {
    /// The peak: the sum of all its stages.
    pub fn peak(&self) -> u64 {
        self.stages.iter().map(StageMemory::total).sum()
    }
}

impl StageMemory {
    /// The sum of all.
    pub fn total(&self) -> u64 {
        self.by_holder().iter().map(|(_, bytes)| bytes).sum()
    }

    fn by_holder(&self) -> [(&'static str, u64); 7] {
        [
            ("parameters", self.parameters),
            ("optimizer", self.optimizer),
            ("gradients", self.gradients),
            ("kept inputs", self.inputs),
            ("saved", self.saved),
            ("under way", self.under_way),
            ("working", self.working),
        ]
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
        let Held { measured, simulated } = built.recorder.held();
        let stage = |stage: usize| {
            let of = |holder: Holder| measured[stage][holder as usize].unsigned_abs();
            StageMemory {
                stage,
                parameters: self.core.parameter_bytes[stage].0,
                optimizer: kept[stage],
                gradients: of(Holder::Gradient),
                inputs: of(Holder::Input),
                saved: of(Holder::Saved),
                under_way: of(Holder::UnderWay),
                working: of(Holder::Working),
            }
        };
        let is_measured =
            |stage: &StageMemory| built.stages[stage.stage].device == Device::Cpu && built.is_here(stage.stage);
        let rank = |(rank, simulated): (usize, f64)| {
            let stages = (0..measured.len()).filter(|&stage| built.rank_of()[stage] == rank).map(stage);
            let stages: Vec<_> = stages.collect();
            let optimizer = stages.iter().map(|stage| stage.optimizer).sum::<u64>();
            RankMemory { rank, stages, simulated: simulated as u64 + optimizer }
        };
        let ranks = simulated.into_iter().enumerate().map(rank);
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
        for memory in &self.ranks {
            let RankMemory { rank, stages, simulated } = memory;
            writeln!(f, "rank {rank}: at its peak {}; simulated {}", text(memory.peak()), text(*simulated))?;
            for stage in stages {
                let parts = stage.by_holder().map(|(name, bytes)| format!("{name} {}", text(bytes))).join(", ");
                writeln!(f, "  stage {}: {} ({parts})", stage.stage, text(stage.total()))?;
            }
        }
        Ok(())
    }
}
