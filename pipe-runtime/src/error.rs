use std::any::Any;
use std::fmt;

use pipe_engine::Refusal;

use crate::torch::TorchError;

/// What can go wrong in setting a pipeline up or running it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting is out of range or does not fit the model.
    #[error("{0}")]
    Setting(String),
    /// The inputs cannot be split into micro-batches.
    #[error("{0}")]
    Input(String),
    /// The micro-batches' outputs cannot be joined into one.
    #[error("{0}")]
    Output(String),
    /// A saved file does not fit the model; nothing was changed.
    #[error("{0}")]
    File(String),
    /// A layer failed while it ran.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// A call into libtorch failed outside any layer.
    #[error(transparent)]
    Torch(#[from] TorchError),
    /// A call into tch failed outside any layer.
    #[error("{}", without_stack(&.0.to_string()))]
    Tch(#[from] tch::TchError),
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Setting(refusal.to_string())
    }
}

/// What the fallible functions of this crate return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The first failure of a run: of several, the one that comes first in the schedule's order.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{phase} of micro-batch {micro_batch} in stage {stage}{}: {cause}", in_layer(.layer))]
pub struct Failure {
    /// What was being done.
    pub phase: Phase,
    /// The stage, from 0.
    pub stage: usize,
    /// The path of the layer that was running, as in parameter names; empty if it was none (a transfer, or libtorch's backward).
    pub layer: String,
    /// The micro-batch, from 0.
    pub micro_batch: usize,
    /// The panic's or libtorch's message.
    pub cause: String,
}

fn in_layer(layer: &str) -> String {
    if layer.is_empty() { String::new() } else { format!(", layer `{layer}`") }
}

/// The part of a step in which something failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// The forward.
    Forward,
    /// The forward again, before the backward of a checkpointed micro-batch.
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

/// What a panic said. tch panics with a debug-printed [`tch::TchError`] and libtorch's C++ stack in it: both are noise to the reader of a message.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = match (panic.downcast_ref::<String>(), panic.downcast_ref::<&str>()) {
        (Some(text), _) => text.as_str(),
        (_, Some(text)) => text,
        _ => return "a panic without a message".into(),
    };
    let Some(error) = text.strip_prefix("called `Result::unwrap()` on an `Err` value: ") else {
        return text.to_owned();
    };
    let Some(torch) = error.strip_prefix("Torch(\"").and_then(|rest| rest.strip_suffix("\")")) else {
        return error.to_owned();
    };
    without_stack(&torch.replace("\\n", "\n").replace("\\\"", "\"").replace("\\'", "'"))
}

/// libtorch's message up to its stack trace.
pub(crate) fn without_stack(message: &str) -> String {
    let end = message.find("\nException raised from").unwrap_or(message.len());
    message[..end].trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tch_panic_is_reduced_to_its_sentence() {
        let panic = std::panic::catch_unwind(|| {
            let _ = tch::Tensor::ones([2, 3], (tch::Kind::Float, tch::Device::Cpu))
                .matmul(&tch::Tensor::ones([2, 3], (tch::Kind::Float, tch::Device::Cpu)));
        });
        let message = panic_message(panic.unwrap_err().as_ref());
        assert_eq!(message, "mat1 and mat2 shapes cannot be multiplied (2x3 and 2x3)");
    }

    #[test]
    fn a_failure_names_phase_micro_batch_stage_layer_and_cause() {
        let failure =
            Failure { phase: Phase::Forward, stage: 1, layer: "head".into(), micro_batch: 3, cause: "no".into() };
        assert_eq!(failure.to_string(), "forward of micro-batch 3 in stage 1, layer `head`: no");
    }
}
