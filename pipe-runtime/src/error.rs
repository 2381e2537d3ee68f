use std::fmt;

use pipe_comm::CommError;
use pipe_engine::EngineError;
use pipe_schedule::UnknownCheckpointError;
use serde::{Deserialize, Serialize};

use crate::torch::{TorchError, without_stack};

/// An error in building or running a pipeline.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting is out of range or does not fit the model.
    #[error("{0}")]
    Setting(String),
    /// The inputs or targets cannot be used: they cannot be split into micro-batches, for example,
    /// or are on the wrong device.
    #[error("{0}")]
    Input(String),
    /// The outputs of the micro-batches cannot be joined into one, or cannot be trained on: no loss
    /// carries a gradient, or one is not finite.
    #[error("{0}")]
    Output(String),
    /// A file cannot be read or written, or a saved file does not fit the model. No variable was
    /// changed.
    #[error("{0}")]
    File(String),
    /// A message to or from another process failed: a process was lost, or does not answer.
    #[error("{0}")]
    Connection(String),
    /// A step of another process failed. A call that ends so returns that process's error instead.
    #[doc(hidden)]
    #[error("a step of another process failed")]
    Elsewhere,
    /// A stage failed while it ran a micro-batch.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// A call into libtorch failed outside any layer.
    #[error(transparent)]
    Torch(#[from] TorchError),
    /// A call into tch failed outside any layer.
    #[error("{}", without_stack(&.0.to_string()))]
    Tch(#[from] tch::TchError),
}

impl From<EngineError> for Error {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Elsewhere => Self::Elsewhere,
            other => Self::Setting(other.to_string()),
        }
    }
}

impl From<CommError> for Error {
    fn from(error: CommError) -> Self {
        Self::Connection(error.to_string())
    }
}

impl From<UnknownCheckpointError> for Error {
    fn from(error: UnknownCheckpointError) -> Self {
        Self::Setting(error.to_string())
    }
}

/// The return type of the fallible functions of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The failure that ended a run. If several steps failed, it is the one that is first in the
/// schedule's order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{phase} of micro-batch {micro_batch} in stage {stage}{}: {cause}", in_layer(.layer))]
#[non_exhaustive]
pub struct Failure {
    /// The part of the step that failed.
    pub phase: Phase,
    /// The stage, counted from 0.
    pub stage: usize,
    /// The path of the layer that was running, as in parameter names, or `loss`, also in the
    /// backward of the loss. It is empty if neither was running (in a transfer, or in libtorch's
    /// backward of a stage).
    pub layer: String,
    /// The micro-batch, counted from 0.
    pub micro_batch: usize,
    /// The message of the panic or of libtorch.
    pub cause: String,
}

fn in_layer(layer: &str) -> String {
    if layer.is_empty() { String::new() } else { format!(", layer `{layer}`") }
}

/// The part of a step in which something failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Phase {
    /// The forward.
    Forward,
    /// The recomputation: the second forward of a checkpointed micro-batch, before its backward.
    Recomputation,
    /// The backward.
    Backward,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Forward => "forward",
            Self::Recomputation => "recomputation",
            Self::Backward => "backward",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_phase_micro_batch_stage_layer_and_cause() {
        let failure =
            Failure { phase: Phase::Forward, stage: 1, layer: "head".into(), micro_batch: 3, cause: "no".into() };
        assert_eq!(failure.to_string(), "forward of micro-batch 3 in stage 1, layer `head`: no");
    }
}
