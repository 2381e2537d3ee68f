use std::fmt;
use std::str::FromStr;

use pipe_schedule::ScheduleKind;
use pipe_schedule::support::partition::Chain;
use tch::{Cuda, Device};

use super::Model;
use super::plan::{Plan, Split};
use crate::error::{Error, Result};
use crate::torch::cuda_fault;
use crate::world::World;

/// The devices of the stages.
///
/// If there are fewer devices than the model has stages, consecutive stages are merged: they run as
/// one stage, under every schedule. With a balance file, the most expensive stage is as cheap as
/// possible; otherwise, the numbers of stages are as even as possible. Names, files and random
/// numbers do not change, and results neither.
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
    /// An annotated device that tch cannot address (`xpu:N`). Making variables on it is an error.
    unsupported: Option<&'static str>,
    /// The annotated processes of the devices.
    processes: Option<Vec<usize>>,
    /// The schedule whose ranks processes do not divide, if it is known, and the number of ranks if
    /// it was given.
    schedule: Option<(ScheduleKind, Option<usize>)>,
    /// The processes to which the devices belong; `None` if all are this one's.
    across: Option<Across>,
}

/// The processes of devices.
#[derive(Clone, Debug)]
pub(crate) struct Across {
    pub(crate) world: World,
    /// The process of each device, within a replica.
    pub(crate) process_of: Vec<usize>,
    /// The device of each stage, and the process that it belongs to by its annotation.
    pub(crate) sites: Vec<(usize, Device)>,
}

impl Across {
    /// Whether a stage is one of this process.
    pub(crate) fn is_here(&self, stage: usize) -> bool {
        self.process_of[stage] == self.world.position()
    }
}

impl PartialEq for Across {
    fn eq(&self, other: &Self) -> bool {
        self.process_of == other.process_of
    }
}

impl Eq for Across {}

impl Devices {
    /// The annotated devices of the struct, with their processes, for its annotated schedule.
    #[doc(hidden)]
    pub fn annotated<M: Model>() -> Self {
        let plan = M::PLAN;
        let mut devices = Self::new([]);
        devices.processes = Some(plan.processes.to_vec()).filter(|processes| !processes.is_empty());
        devices.schedule = M::DEFAULTS.schedule.map(|kind| (kind, None));
        for stage in plan.stages {
            match parse(stage.device) {
                Ok(device) => devices.stages.push(device),
                Err(_) => devices.unsupported = Some(stage.device),
            }
        }
        devices
    }

    /// Puts all of `stages` stages on the CPU, which works on any machine.
    pub fn cpu(stages: usize) -> Self {
        Self::new(vec![Device::Cpu; stages])
    }

    /// Returns the devices of this machine: the CPU, then its accelerators.
    ///
    /// libtorch's CUDA part is looked for when the program starts, beside the CPU part that the
    /// program is linked to.
    pub fn here() -> Self {
        let cuda = usize::try_from(Cuda::device_count()).unwrap_or(0);
        let mps = tch::utils::has_mps().then_some(Device::Mps);
        Self::new([Device::Cpu].into_iter().chain((0..cuda).map(Device::Cuda)).chain(mps).collect::<Vec<_>>())
    }

    /// Makes a list of devices, one per stage or fewer.
    pub fn new(devices: impl Into<Vec<Device>>) -> Self {
        Self { stages: devices.into(), unsupported: None, processes: None, schedule: None, across: None }
    }

    /// Says which schedule the pipeline will be built with, if it is not the annotated one, and how
    /// many ranks it will have if not the usual number: [`across`](Self::across) leaves the stages
    /// of a rank together.
    ///
    /// ```
    /// use pipe_runtime::{Devices, ScheduleKind, World};
    ///
    /// // Over two processes, the first one has the stages 0 and 3, the second one 1 and 2.
    /// let devices = Devices::cpu(4).for_schedule(ScheduleKind::Zbv, None);
    /// let devices = devices.across(&World::init()?)?;
    /// # Ok::<(), pipe_runtime::Error>(())
    /// ```
    pub fn for_schedule(mut self, kind: ScheduleKind, ranks: impl Into<Option<usize>>) -> Self {
        self.schedule = Some((kind, ranks.into()));
        self
    }

    /// The same for a schedule that applies unless another one was given.
    pub(crate) fn or_for_schedule(mut self, kind: Option<ScheduleKind>) -> Self {
        self.schedule = self.schedule.or(kind.map(|kind| (kind, None)));
        self
    }

    /// Gives each device to a process: to the annotated one (`#[device("cpu", process = 1)]`), or
    /// else by rank. A rank has one stage, or those that its schedule runs in turn; consecutive
    /// ranks belong to one process, and each process has as many as the others, or one more. A
    /// device of another process need not be on this machine.
    ///
    /// All processes call this with the same devices. A process that is alone has all of them.
    ///
    /// # Errors
    ///
    /// Fails if there are fewer ranks than processes, if the schedule cannot run these stages, or
    /// if other processes are annotated than there are.
    pub fn across(mut self, world: &World) -> Result<Self> {
        let size = world.per_replica();
        // An accelerator is one rank. One that stands for those of several processes is several.
        let sites = self.processes.clone().filter(|_| size == 1);
        let process_of = match size {
            1 => vec![0; self.stages.len()],
            _ => self.process_of(size)?,
        };
        self.processes = None;
        let sites = sites.unwrap_or_else(|| process_of.clone());
        let sites = sites.into_iter().zip(self.stages.iter().copied()).collect();
        self.across = Some(Across { world: world.clone(), process_of, sites });
        Ok(self)
    }

    /// The annotated processes of the devices, if there are any.
    pub(crate) fn annotated_processes(&self) -> Option<&[usize]> {
        self.processes.as_deref()
    }

    /// The process of each device: the annotated one, or else by the ranks of the schedule.
    ///
    /// # Errors
    ///
    /// Fails in the same cases as [`across`](Self::across).
    pub(crate) fn process_of(&self, size: usize) -> Result<Vec<usize>> {
        match &self.processes {
            Some(annotated) => {
                let processes = annotated.iter().max().map_or(0, |last| last + 1);
                if processes != size {
                    return Err(Error::Setting(format!(
                        "the model is annotated for {processes} processes, and there are {size}: start {processes}, or give devices without processes \
                         (`Devices::new`)"
                    )));
                }
                Ok(annotated.clone())
            }
            None => self.by_rank(size),
        }
    }

    /// The schedule, and the rank of each device in it.
    pub(crate) fn rank_of(&self) -> Result<(ScheduleKind, Vec<usize>)> {
        // Each process has a `cuda:0` of its own: if all have the same device, they share the
        // stages out as on the CPU.
        let is_one = self.stages.windows(2).all(|pair| pair[0] == pair[1]);
        let accelerator = |&device: &Device| Some(device).filter(|device| !is_one && is_accelerator(device));
        let accelerators: Vec<_> = self.stages.iter().map(accelerator).collect();
        let (kind, ranks) = self.schedule.unwrap_or((ScheduleKind::GPipe, None));
        let rank_of = kind.place(&accelerators, ranks).map_err(|error| Error::Setting(error.to_string()))?;
        Ok((kind, rank_of))
    }

    /// The process of each device, by the ranks of the schedule.
    fn by_rank(&self, processes: usize) -> Result<Vec<usize>> {
        let (kind, rank_of) = self.rank_of()?;
        let ranks = rank_of.iter().max().map_or(0, |last| last + 1);
        if ranks < processes {
            return Err(Error::Setting(format!(
                "there are {processes} processes for {ranks} ranks (devices {self}, schedule {kind}): each process runs at least one, so start at most {ranks}"
            )));
        }
        let processes: Vec<_> = (0..processes)
            .flat_map(|process| Split::Evenly(processes).range(process, ranks).map(move |_| process))
            .collect();
        Ok(rank_of.into_iter().map(|rank| processes[rank]).collect())
    }

    /// The devices.
    pub fn as_slice(&self) -> &[Device] {
        &self.stages
    }

    /// The names of the devices, as in annotations.
    pub(crate) fn names(&self) -> Vec<String> {
        self.stages.iter().copied().map(name).collect()
    }

    /// Distributes the annotated stages over the devices.
    ///
    /// # Errors
    ///
    /// Fails if there are no devices or more than stages, or if one is not on this machine or
    /// cannot be addressed by tch.
    pub(crate) fn place(&self, plan: &Plan) -> Result<Placement> {
        let annotated = plan.stages.len();
        if let Some(name) = self.unsupported {
            return Err(Error::Setting(format!(
                "tch cannot address the device `{name}`: choose others with `Devices::new`"
            )));
        }
        let stages = self.stages.len();
        if stages == 0 || stages > annotated {
            return Err(Error::Setting(match stages {
                0 => "no devices were given: give one for each stage, or fewer to merge stages".into(),
                _ => format!(
                    "the model has {annotated} stages, but {stages} devices were given ({self}): give one for each stage, or fewer to merge stages"
                ),
            }));
        }
        let is_own = |stage: usize| self.across.as_ref().is_none_or(|across| across.is_here(stage));
        let own = self.stages.iter().enumerate().filter(|(stage, _)| is_own(*stage)).map(|(_, device)| device);
        if let Some(missing) = own.into_iter().find(|device| !is_here(**device)) {
            return Err(Error::Setting(format!(
                "there is no device `{}` on this machine, only {}{}: give others, or run everywhere with `Devices::cpu`",
                name(*missing),
                Self::here().names().join(", "),
                why_no_cuda(*missing)
            )));
        }
        // What is elsewhere gets no memory on this process's devices.
        let device = |(stage, &device): (usize, &Device)| if is_own(stage) { device } else { Device::Cpu };
        let devices = self.stages.iter().enumerate().map(device).collect();
        let across = self.across.clone().filter(|across| across.world.size() > 1);
        Ok(Placement { devices, stage_of: merged(plan, stages), across })
    }
}

/// How annotated stages are distributed over devices.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    /// The device of each stage; the CPU for those of other processes.
    pub(crate) devices: Vec<Device>,
    /// The processes of the stages, if there are several.
    pub(crate) across: Option<Across>,
    /// The stage of each annotated stage.
    pub(crate) stage_of: Vec<usize>,
}

/// The stage of each annotated stage: by their costs, so that the most expensive stage is as cheap
/// as possible, or evenly if the costs are not known.
fn merged(plan: &Plan, stages: usize) -> Vec<usize> {
    let annotated = plan.stages.len();
    let costs: Vec<f64> = plan.costs.iter().map(|&cost| cost as f64).collect();
    let by_cost = (costs.len() == annotated).then(|| {
        let chain = Chain { sizes: vec![0.; annotated], costs, ..Chain::default() };
        chain.partition(stages, &[]).ok()
    });
    let evenly = || (0..stages).map(|stage| Split::Evenly(stages).range(stage, annotated).len()).collect();
    let counts = by_cost.flatten().unwrap_or_else(evenly);
    counts.into_iter().enumerate().flat_map(|(stage, count)| vec![stage; count]).collect()
}

#[allow(clippy::trivially_copy_pass_by_ref)] // As `Option::filter` wants it.
pub(crate) fn is_accelerator(device: &Device) -> bool {
    *device != Device::Cpu
}

fn is_here(device: Device) -> bool {
    device == Device::Cpu || Devices::here().stages.contains(&device)
}

/// The reason why CUDA cannot be used, if the machine seems to have it; empty otherwise.
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

/// Parses a torch device string: `cpu`, `cuda:N`, `mps`, `xpu:N`.
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

/// Parses a comma-separated list, one device per stage: `cpu,cpu` or `cuda:0,cuda:1`.
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
    use crate::model::plan::StagePlan;

    /// A plan with this number of stages.
    fn plan(stages: usize) -> Plan {
        const STAGES: [StagePlan; 8] = [StagePlan { device: "cpu", layers: &[] }; 8];
        Plan { name: "Net", stages: &STAGES[..stages], ..Plan::EMPTY }
    }

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
    fn fewer_devices_than_stages_merge_consecutive_stages_evenly() {
        let stage_of = |devices, annotated| Devices::cpu(devices).place(&plan(annotated)).unwrap().stage_of;
        assert_eq!(stage_of(3, 3), [0, 1, 2]);
        assert_eq!(stage_of(2, 5), [0, 0, 0, 1, 1]);
        assert_eq!(stage_of(1, 3), [0, 0, 0]);
        for wrong in [0, 4] {
            assert!(Devices::cpu(wrong).place(&plan(3)).unwrap_err().to_string().contains("devices were given"));
        }
    }

    #[test]
    fn stages_with_costs_are_merged_by_them() {
        let stage_of =
            |devices, costs: &'static [u64]| Devices::cpu(devices).place(&Plan { costs, ..plan(5) }).unwrap().stage_of;
        assert_eq!(stage_of(2, &[9, 2, 2, 2, 2]), [0, 1, 1, 1, 1]);
        assert_eq!(stage_of(3, &[2, 2, 2, 3, 3]), [0, 0, 1, 1, 2]);
        assert_eq!(stage_of(2, &[0, 0, 0, 0, 0]), [0, 0, 1, 1, 1], "evenly");
        assert_eq!(stage_of(5, &[1, 2, 3, 4, 5]), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn the_same_device_of_several_processes_is_several() {
        let gpu = Device::Cuda(0);
        assert_eq!(Devices::new([gpu, gpu, gpu]).by_rank(2).unwrap(), [0, 0, 1]);
        let back = Devices::new([gpu, Device::Cuda(1), gpu]);
        assert_eq!(back.by_rank(2).unwrap(), [0, 1, 0], "a device that comes back is one rank");
        assert!(back.by_rank(3).unwrap_err().to_string().contains("3 processes for 2 ranks"));
        // Alone, a model of two processes keeps its ranks.
        let annotated = Devices { processes: Some(vec![0, 1]), ..Devices::new([gpu, gpu]) };
        let across = annotated.across(&World::init().unwrap()).unwrap().across.unwrap();
        assert_eq!((across.process_of, across.sites), (vec![0, 0], vec![(0, gpu), (1, gpu)]));
    }

    #[test]
    fn a_device_that_is_not_here_is_named_with_those_that_are() {
        let error = Devices::new([Device::Cpu, Device::Cuda(4711)]).place(&plan(2)).unwrap_err().to_string();
        assert!(error.starts_with("there is no device `cuda:4711` on this machine, only cpu"), "{error}");
    }
}
