//! Training of the adapters alone.

use anyhow::Result;
use pipe_runtime::optim::AdamW;
use pipe_runtime::{Pipe, Trainer};
use tch::Tensor;

use crate::model::{MiniLm, MiniLmVars};
use crate::text::Batch;

/// What cosines are multiplied by, to be logits.
const SCALE: f64 = 20.;

// ANCHOR: train
/// Trains the adapters to put each sentence near the topic of its label, and returns the pipeline
/// and the loss of each step. `topics` are embeddings, one per row; `labels` are numbers of these
/// rows.
///
/// # Errors
///
/// Fails if a step fails.
pub fn train(
    pipe: Pipe<MiniLm>,
    vars: &MiniLmVars,
    (tokens, mask): &Batch,
    labels: &Tensor,
    topics: &Tensor,
    steps: usize,
) -> Result<(Pipe<MiniLm>, Vec<f64>)> {
    vars.freeze("*")?;
    vars.unfreeze("*.adapter")?;
    let optimizer = pipe.optimizer(AdamW { lr: 1e-3, ..AdamW::default() }).build()?;
    let mut trainer = Trainer::new(pipe, optimizer)?;
    let loss = |embeddings: &Tensor, labels: &Tensor| loss(embeddings, labels, topics);
    let step = |_| Ok(trainer.step((tokens, mask), labels, loss)?.step.loss.double_value(&[]));
    let losses = (0..steps).map(step).collect::<Result<_>>()?;
    Ok((trainer.into_parts().0, losses))
}

/// The mean over the sentences. Their logits are cosines with the topics.
pub fn loss(embeddings: &Tensor, labels: &Tensor, topics: &Tensor) -> Tensor {
    (embeddings.matmul(&topics.tr()) * SCALE).cross_entropy_for_logits(labels)
}
// ANCHOR_END: train

/// Copies of all weights but the adapters', in the order of their names.
///
/// # Errors
///
/// Fails if there are none.
pub fn trunk(vars: &MiniLmVars) -> Result<Vec<Tensor>> {
    let all = vars.select("*")?.into_iter().filter(|(name, _)| !name.contains(".adapter."));
    Ok(all.map(|(_, weight)| weight.detach().copy()).collect())
}
