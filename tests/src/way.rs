//! Ways to train one model: stages, schedules, checkpoint modes and mini-batches, chosen or random,
//! and the comparison with the same model in plain tch.

use pipe_runtime::{Checkpoint, Pipe, PipeBuilder, Pipeline, ScheduleKind, Vars};
use proptest::prelude::*;
use proptest::sample::select;
use tch::Tensor;

use crate::zoo::run::{ranks, runs};

/// A way to train a model.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// The number of devices, which may be less than the model has stages.
    pub stages: usize,
    /// The order of the step.
    pub method: ScheduleKind,
    /// The checkpoint mode.
    pub checkpoint: Checkpoint,
    /// The number of micro-batches.
    pub chunks: usize,
    /// The rows of the mini-batch.
    pub rows: i64,
}

impl Way {
    /// A way with four micro-batches, of which the last one is smaller.
    pub fn new(stages: usize, method: ScheduleKind, checkpoint: Checkpoint) -> Self {
        Self { stages, method, checkpoint, chunks: 4, rows: 15 }
    }

    /// All schedules that run so many stages, in this checkpoint mode.
    pub fn all(stages: usize, checkpoint: Checkpoint) -> Vec<Self> {
        let all = ScheduleKind::ALL.into_iter().map(|method| Self::new(stages, method, checkpoint));
        all.filter(|way| runs(way.method, stages, way.chunks)).collect()
    }

    /// Any way to train a model that has so many stages.
    pub fn any(stages: usize) -> impl Strategy<Value = Self> {
        let modes = [Checkpoint::Always, Checkpoint::ExceptLast, Checkpoint::Never];
        let numbers = (1..=stages, 1..7_usize, 1..4_i64, 0..4_i64);
        (numbers, select(modes.to_vec()), any::<prop::sample::Index>()).prop_map(
            move |((own, chunks, rows, fewer), checkpoint, method)| {
                // Merged stages run one per rank.
                let methods: Vec<_> = match own == stages {
                    true => ScheduleKind::ALL.into_iter().filter(|&method| runs(method, stages, chunks)).collect(),
                    false => vec![ScheduleKind::GPipe, ScheduleKind::OneFOneB],
                };
                // The last micro-batch has at least one row, and the others as many or more.
                let rows = rows * chunks as i64 - fewer.min(rows - 1);
                Self { stages: own, method: methods[method.index(methods.len())], checkpoint, chunks, rows }
            },
        )
    }

    /// Builds the pipeline.
    pub fn pipe<M: Pipeline>(self, model: M, vars: &Vars) -> Pipe<M> {
        let Self { stages, method, checkpoint, chunks, .. } = self;
        let builder = PipeBuilder::new(model, vars).chunks(chunks).schedule(method).checkpoint(checkpoint);
        let builder = if stages == M::PLAN.stages.len() { builder.ranks(ranks(method, stages).0) } else { builder };
        builder.build().unwrap()
    }
}

/// Compares a loss, and the gradients that a step has left in the variables, with the loss of the
/// plain model. Sums in another order differ by some of the last bits of their largest terms.
pub fn assert_trained(vars: &Vars, found: &Tensor, expected: &Tensor, about: &str) {
    assert!(found.allclose(expected, 1e-5, 1e-7, false), "{about}: {found:?} {expected:?}");
    let parameters = vars.var_store().trainable_variables();
    for (parameter, expected) in parameters.iter().zip(Tensor::run_backward(&[expected], &parameters, false, false)) {
        assert_near(&parameter.grad(), &expected, about);
    }
}

/// Asserts that a tensor is that of the whole batch. Its numbers are sums of others, whose rounding
/// errors are as large where they cancel, and processors round them differently.
pub fn assert_near(found: &Tensor, expected: &Tensor, about: &str) {
    let least = expected.abs().max().double_value(&[]) * 2e-5 + 1e-6;
    assert!(found.allclose(expected, 1e-5, least, false), "{about}: {found} {expected}");
}
