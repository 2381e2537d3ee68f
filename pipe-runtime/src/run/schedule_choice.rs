//! The choice of a schedule: a published one, or custom lists.

use std::fmt;
use std::sync::Arc;

use pipe_schedule::{ActionKind, Limits, Schedule, ScheduleKind};
use tch::Device;

use crate::error::{Error, Result};
use crate::model::{Checkpoint, Devices};

/// The schedule of a pipeline's training steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScheduleChoice {
    /// A published schedule, whose lists are made for each number of micro-batches.
    Published(ScheduleKind),
    /// Custom lists, for their number of micro-batches. For a mini-batch with fewer of them, the
    /// actions of the others are left out.
    Custom(Arc<Schedule>),
}

impl From<ScheduleKind> for ScheduleChoice {
    fn from(kind: ScheduleKind) -> Self {
        Self::Published(kind)
    }
}

/// Made with a [`Builder`](pipe_schedule::Builder), or parsed from text (`str::parse`).
impl From<Schedule> for ScheduleChoice {
    fn from(schedule: Schedule) -> Self {
        Self::Custom(Arc::new(schedule))
    }
}

/// Prints the name of the published schedule, or `custom`.
impl fmt::Display for ScheduleChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Published(kind) => kind.fmt(f),
            Self::Custom(_) => f.pad("custom"),
        }
    }
}

/// The argument of [`PipeBuilder::schedule`](crate::PipeBuilder::schedule): a [`ScheduleKind`], a
/// [`Schedule`], or an `Option` of either, where `None` is the annotated schedule.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a schedule",
    label = "expected a `ScheduleKind`, a `Schedule` or an `Option` of one",
    note = "each published schedule has two names: `ScheduleKind::OneFOneB` here is `\"1f1b\"` in `#[pipeline(schedule = \"1f1b\")]`",
    note = "a name is parsed by `\"1f1b\".parse::<ScheduleKind>()?`"
)]
pub trait IntoSchedule {
    /// Returns the choice; `None` for the annotated schedule.
    fn into_choice(self) -> Option<ScheduleChoice>;
}

#[diagnostic::do_not_recommend]
impl<T: Into<ScheduleChoice>> IntoSchedule for T {
    fn into_choice(self) -> Option<ScheduleChoice> {
        Some(self.into())
    }
}

#[diagnostic::do_not_recommend]
impl<T: Into<ScheduleChoice>> IntoSchedule for Option<T> {
    fn into_choice(self) -> Option<ScheduleChoice> {
        self.map(Into::into)
    }
}

/// The properties of a pipeline that a custom schedule must fit.
pub(crate) struct Requirements<'a> {
    /// The process and the device of each stage.
    pub(crate) sites: &'a [(usize, Device)],
    /// The stages that skips connect.
    pub(crate) skips: &'a [(usize, usize)],
    /// The number of ranks that was set, if any.
    pub(crate) ranks: Option<usize>,
    /// The number of micro-batches of a mini-batch.
    pub(crate) chunks: usize,
    pub(crate) checkpoint: Checkpoint,
}

/// Checks that custom lists are valid and fit the pipeline. Returns the rank of each stage.
pub(crate) fn custom_ranks(schedule: &Schedule, required: &Requirements<'_>) -> Result<Vec<usize>> {
    let stages = required.sites.len();
    if schedule.stages != stages {
        return Err(Error::Setting(format!(
            "the schedule has {} stages and the model has {stages}: every stage needs its actions",
            schedule.stages
        )));
    }
    let limits = required.skips.iter().fold(Limits::default(), |limits, &(from, to)| limits.with_skip(from, to));
    let limits = Limits { stages_per_rank: Some(1), ..limits };
    schedule.validate(&limits).map_err(|faults| Error::Setting(format!("the schedule is not valid:\n{faults}")))?;
    if schedule.micro_batches != required.chunks {
        return Err(Error::Setting(format!(
            "the schedule is for {0} micro-batches, and chunks is {1}: set chunks to {0}, or leave it out",
            schedule.micro_batches, required.chunks
        )));
    }
    if let Some(ranks) = required.ranks.filter(|&ranks| ranks != schedule.ranks.len()) {
        return Err(Error::Setting(format!(
            "the schedule has lists for {} ranks, and {ranks} were asked for: leave `ranks` out",
            schedule.ranks.len()
        )));
    }
    let surplus = schedule.actions().find(|action| {
        action.kind == ActionKind::Recompute && !required.checkpoint.applies(action.micro_batch, schedule.micro_batches)
    });
    if let Some(action) = surplus {
        return Err(Error::Setting(format!(
            "the schedule has `{action}`, but checkpoint = {} does not checkpoint that micro-batch: leave the recomputation out, or set another mode",
            required.checkpoint
        )));
    }
    let mut rank_of = vec![0; stages];
    for (rank, list) in schedule.ranks.iter().enumerate() {
        list.iter().for_each(|action| rank_of[action.stage] = rank);
    }
    fits_devices(&rank_of, required.sites)?;
    Ok(rank_of)
}

/// The stages of a rank must be on one device, and the stages of an accelerator on one rank,
/// because a rank is a thread that feeds one device.
fn fits_devices(rank_of: &[usize], sites: &[(usize, Device)]) -> Result<()> {
    let name = |device| Devices::new([device]);
    for (later, (&rank, &(process, device))) in rank_of.iter().zip(sites).enumerate() {
        for (earlier, (&other_rank, &(other_process, other))) in rank_of.iter().zip(sites).enumerate().take(later) {
            if rank == other_rank && device != other {
                return Err(Error::Setting(format!(
                    "the schedule has the stages {earlier} and {later} on rank {rank}, but they are on the devices {} and {}: a rank is one device",
                    name(other),
                    name(device)
                )));
            }
            if rank != other_rank && (process, device) == (other_process, other) && device != Device::Cpu {
                return Err(Error::Setting(format!(
                    "the schedule has the stages {earlier} and {later} on the ranks {other_rank} and {rank}, but both are on {}: an accelerator is one rank",
                    name(device)
                )));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_is_one_device_and_an_accelerator_one_rank() {
        let cpu = (0, Device::Cpu);
        let gpu = |index| (0, Device::Cuda(index));
        assert!(fits_devices(&[0, 1, 1, 0], &[gpu(0), gpu(1), gpu(1), gpu(0)]).is_ok());
        assert!(fits_devices(&[0, 1, 2], &[cpu, cpu, gpu(0)]).is_ok());
        assert!(fits_devices(&[0, 1], &[gpu(0), (1, Device::Cuda(0))]).is_ok(), "another process's");
        let error = fits_devices(&[0, 0], &[gpu(0), cpu]).unwrap_err().to_string();
        assert!(error.contains("stages 0 and 1 on rank 0, but they are on the devices cuda:0 and cpu"), "{error}");
        let error = fits_devices(&[0, 1], &[gpu(0), gpu(0)]).unwrap_err().to_string();
        assert!(error.contains("stages 0 and 1 on the ranks 0 and 1, but both are on cuda:0"), "{error}");
    }

    #[test]
    fn it_is_printed_as_in_settings() {
        assert_eq!(ScheduleChoice::from(ScheduleKind::OneFOneB).to_string(), "1f1b");
        assert_eq!(ScheduleChoice::from("0F0,0B0".parse::<Schedule>().unwrap()).to_string(), "custom");
    }
}
