//! A built pipeline, and a call of it.

mod built_pipeline;
mod call;
mod device_streams;
mod pipeline_core;
mod recorder;
mod remote;
mod repeats;
mod schedule_choice;
mod settings;
mod update;

pub use schedule_choice::{IntoSchedule, ScheduleChoice};

pub(crate) use built_pipeline::BuiltPipeline;
pub(crate) use call::{Given, LOSS, Loss, TrainRun, Trained, loss_is_not_finite};
pub(crate) use pipeline_core::{PipelineCore, Prepared, check_targets};
pub(crate) use recorder::Held;
#[cfg(fuzzing)]
pub(crate) use remote::message;
pub(crate) use settings::{Choices, check_chunks, check_threads};
pub(crate) use update::{OptimizerBytes, PlannedParameter, UpdatePlan};
