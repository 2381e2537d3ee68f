use std::fmt;
use std::str::FromStr;

use tch::{Cuda, Device};

use super::plan::Plan;
use crate::error::{Error, Result};
use crate::torch::cuda_fault;

/// One device per stage.
///
/// ```
/// use pipe_runtime::Devices;
/// use tch::Device;
///
/// let anywhere = Devices::cpu(2);
/// let mixed = Devices::new([Device::Cuda(0), Device::Cpu]);
/// assert_eq!(mixed, "cuda:0, cpu".parse()?);
/// assert_eq!(mixed.to_string(), "cuda:0,cpu");
/// assert_eq!(anywhere.as_slice(), [Device::Cpu, Device::Cpu]);
/// # Ok::<(), pipe_runtime::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Devices {
    stages: Vec<Device>,
    /// An annotated device that tch cannot represent (`xpu:N`). Creating variables on it is an
    /// error.
    unsupported: Option<&'static str>,
}

impl Devices {
    /// The devices that the struct's annotations name, one per stage.
    pub fn annotated(plan: &Plan) -> Self {
        let mut devices = Self::new([]);
        for stage in plan.stages {
            match parse(stage.device) {
                Ok(device) => devices.stages.push(device),
                Err(_) => devices.unsupported = Some(stage.device),
            }
        }
        devices
    }

    /// Puts all of `stages` stages on the CPU. The stages and micro-batches are the same, and the
    /// model runs on any machine.
    pub fn cpu(stages: usize) -> Self {
        Self::new(vec![Device::Cpu; stages])
    }

    /// The available devices of this machine: the CPU, then its accelerators.
    ///
    /// CUDA devices are available only if libtorch's CUDA library is next to the CPU library that
    /// the program is linked to. It is looked up once, when the program starts.
    pub fn here() -> Self {
        let cuda = usize::try_from(Cuda::device_count()).unwrap_or(0);
        let mps = tch::utils::has_mps().then_some(Device::Mps);
        Self::new([Device::Cpu].into_iter().chain((0..cuda).map(Device::Cuda)).chain(mps).collect::<Vec<_>>())
    }

    /// Creates the list from one device per stage.
    pub fn new(devices: impl Into<Vec<Device>>) -> Self {
        Self { stages: devices.into(), unsupported: None }
    }

    /// The device of each stage.
    pub fn as_slice(&self) -> &[Device] {
        &self.stages
    }

    /// The name of each stage's device, as annotations write it.
    pub(crate) fn names(&self) -> Vec<String> {
        self.stages.iter().copied().map(name).collect()
    }

    /// The devices, checked for a model of `count` stages.
    ///
    /// # Errors
    ///
    /// If there are more or fewer devices than stages, or if one is not available on this machine
    /// or tch cannot address it.
    pub(crate) fn for_stages(&self, count: usize) -> Result<&[Device]> {
        if let Some(name) = self.unsupported {
            return Err(Error::Setting(format!(
                "tch cannot address the device `{name}`: choose others with `Devices::new`"
            )));
        }
        if self.stages.len() != count {
            return Err(Error::Setting(format!(
                "the model has {count} stages, but {} devices were given ({self}): give one for each stage",
                self.stages.len()
            )));
        }
        if let Some(missing) = self.stages.iter().find(|device| !is_here(**device)) {
            return Err(Error::Setting(format!(
                "there is no device `{}` on this machine, only {}{}: give others, or run everywhere with `Devices::cpu`",
                name(*missing),
                Self::here().names().join(", "),
                why_no_cuda(*missing)
            )));
        }
        Ok(&self.stages)
    }
}

fn is_here(device: Device) -> bool {
    device == Device::Cpu || Devices::here().stages.contains(&device)
}

/// The part of an error message that explains why CUDA is unavailable although its driver is
/// installed. Empty if `missing` is not a CUDA device or there is no such fault.
fn why_no_cuda(missing: Device) -> String {
    match cuda_fault().filter(|_| missing.is_cuda()) {
        Some(fault) => format!(" (there is a CUDA driver, but libtorch's CUDA part cannot be opened: {fault})"),
        None => String::new(),
    }
}

/// The name of a device, as torch writes it.
fn name(device: Device) -> String {
    match device {
        Device::Cpu => "cpu".to_owned(),
        Device::Cuda(index) => format!("cuda:{index}"),
        other => format!("{other:?}").to_lowercase(),
    }
}

/// Parses a torch device string: `cpu`, `cuda:N` or `mps`. `xpu:N` is an error, because tch cannot
/// represent it.
fn parse(text: &str) -> Result<Device> {
    match text.split_once(':') {
        None if text == "cpu" => Ok(Device::Cpu),
        None if text == "mps" => Ok(Device::Mps),
        Some(("cuda", index)) => index.parse().map(Device::Cuda).map_err(|_| unknown(text)),
        _ => Err(unknown(text)),
    }
}

fn unknown(text: &str) -> Error {
    Error::Setting(format!("unknown device `{text}`: use `cpu`, `cuda:N` or `mps`"))
}

/// Parses a comma-separated list of one device per stage: `cpu,cpu` or `cuda:0,cuda:1`.
impl FromStr for Devices {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        text.split(',').map(|device| parse(device.trim())).collect::<Result<Vec<_>>>().map(Self::new)
    }
}

impl fmt::Display for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.stages.iter().copied().map(name).collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_prints_device_lists() {
        let devices: Devices = "cpu, cuda:1,mps".parse().unwrap();
        assert_eq!(devices.stages, [Device::Cpu, Device::Cuda(1), Device::Mps]);
        assert_eq!(devices.to_string(), "cpu,cuda:1,mps");
        for wrong in ["", "cuda", "gpu:0", "cuda:O"] {
            assert!(wrong.parse::<Devices>().unwrap_err().to_string().contains(wrong));
        }
    }

    #[test]
    fn a_device_that_is_not_here_is_named_with_those_that_are() {
        let error = Devices::new([Device::Cpu, Device::Cuda(4711)]).for_stages(2).unwrap_err().to_string();
        assert!(error.starts_with("there is no device `cuda:4711` on this machine, only cpu"), "{error}");
    }
}
