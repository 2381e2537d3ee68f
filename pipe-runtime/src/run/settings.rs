//! The settings of a pipeline, and the checks of numbers that a user gives.

use pipe_schedule::ScheduleKind;

use super::schedule_choice::ScheduleChoice;
use crate::error::{Error, Result};
use crate::model::{CheapOutputs, Checkpoint, Defaults};
use crate::torch::Offload;

/// The settings that the user makes when a pipeline is built. The others are annotated.
#[derive(Debug)]
pub(crate) struct Choices {
    pub(crate) chunks: Option<usize>,
    pub(crate) checkpoint: Option<Checkpoint>,
    pub(crate) schedule: Option<ScheduleChoice>,
    pub(crate) ranks: Option<usize>,
    pub(crate) intra_op_threads: Option<usize>,
    pub(crate) fuse_gradient_accumulation: bool,
    pub(crate) cheap_outputs: Option<CheapOutputs>,
    pub(crate) offload: Option<Offload>,
    pub(crate) allow_non_finite: bool,
}

/// All settings of a pipeline, made or annotated.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) checkpoint: Checkpoint,
    pub(crate) schedule: ScheduleChoice,
    pub(crate) ranks: Option<usize>,
    pub(crate) chunks: usize,
    pub(crate) intra_op_threads: Option<usize>,
    pub(crate) fuse_gradient_accumulation: bool,
    pub(crate) cheap_outputs: CheapOutputs,
    pub(crate) offload: Option<Offload>,
    pub(crate) allow_non_finite: bool,
}

impl Choices {
    /// Makes an empty set of choices.
    pub(crate) fn new() -> Self {
        Self {
            chunks: None,
            checkpoint: None,
            schedule: None,
            ranks: None,
            intra_op_threads: None,
            fuse_gradient_accumulation: false,
            cheap_outputs: None,
            offload: None,
            allow_non_finite: false,
        }
    }

    /// Combines choices and annotations, and checks what does not depend on the model.
    pub(super) fn settings(self, annotated: Defaults) -> Result<Settings> {
        let kind = annotated.schedule.unwrap_or(ScheduleKind::GPipe);
        let schedule = self.schedule.unwrap_or(ScheduleChoice::Published(kind));
        let own_chunks = match &schedule {
            ScheduleChoice::Published(_) => None,
            ScheduleChoice::Custom(schedule) => Some(schedule.micro_batches.max(1)),
        };
        let chunks = self.chunks.or(own_chunks).or(annotated.chunks).unwrap_or(1);
        check_chunks(chunks)?;
        check_threads(self.intra_op_threads)?;
        Ok(Settings {
            checkpoint: self.checkpoint.or(annotated.checkpoint).unwrap_or_default(),
            schedule,
            ranks: self.ranks,
            chunks,
            intra_op_threads: self.intra_op_threads,
            fuse_gradient_accumulation: self.fuse_gradient_accumulation,
            cheap_outputs: self.cheap_outputs.or(annotated.cheap_outputs).unwrap_or_default(),
            offload: self.offload,
            allow_non_finite: self.allow_non_finite,
        })
    }
}

/// Checks that a mini-batch is split into at least one micro-batch.
pub(crate) fn check_chunks(chunks: usize) -> Result<()> {
    match chunks {
        0 => Err(Error::Setting("number of chunks must be positive integer".into())),
        _ => Ok(()),
    }
}

/// Checks that a number of intra-op threads, if it is set, is one that a machine may have.
pub(crate) fn check_threads(threads: Option<usize>) -> Result<()> {
    match threads {
        Some(threads @ (0 | 4097..)) => {
            Err(Error::Setting(format!("the number of intra-op threads must be between 1 and 4096, not {threads}")))
        }
        _ => Ok(()),
    }
}
