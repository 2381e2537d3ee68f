//! Work on the parameters after a step: gradient norms and updates, on the stages' executors and
//! streams, all stages at once.

use std::any::Any;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::thread::available_parallelism;

use pipe_engine::{Engine, Job};
use pipe_schedule::{Action, ActionKind, Order};
use tch::Device;

use super::built_pipeline::BuiltPipeline;
use crate::error::{Error, Result};
use crate::lock::lock;
use crate::torch::{FusedRule, Slice, Slots};

/// The number of elements of a piece on a CPU. Pieces are small enough to share them out evenly,
/// and large enough that starting one costs nothing beside it.
const PIECE: usize = 1 << 18;

/// The parameters of an optimizer, cut into pieces that the executors share.
pub(crate) struct UpdatePlan {
    slots: Slots,
    pieces: Vec<Piece>,
    order: Order,
}

/// The bytes that one optimizer keeps for each stage. The pipeline counts them until this is
/// dropped.
pub(crate) struct OptimizerBytes {
    pipeline: Arc<BuiltPipeline>,
    of_stage: Vec<u64>,
}

impl OptimizerBytes {
    pub(crate) fn new(pipeline: Arc<BuiltPipeline>) -> Self {
        Self { of_stage: vec![0; pipeline.stages.len()], pipeline }
    }

    /// Counts these bytes in place of the previous ones: pairs of a stage and what is kept for it.
    pub(crate) fn set(&mut self, kept: impl Iterator<Item = (usize, u64)>) {
        let mut of_stage = vec![0; self.of_stage.len()];
        kept.for_each(|(stage, bytes)| of_stage[stage] += bytes);
        self.pipeline.replace_optimizer_bytes(&self.of_stage, &of_stage);
        self.of_stage = of_stage;
    }
}

impl Drop for OptimizerBytes {
    fn drop(&mut self) {
        self.set(std::iter::empty());
    }
}

/// Slices that are updated in one call: of one stage, one kind and one rule.
struct Piece {
    stage: usize,
    rule: usize,
    slices: Vec<Slice>,
}

/// What a plan is made of: one parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PlannedParameter {
    pub(crate) stage: usize,
    /// The index of its rule.
    pub(crate) rule: usize,
}

impl UpdatePlan {
    /// Plans the work on `slots`. Parameters of the same rule have the same kind.
    pub(crate) fn new(pipeline: &BuiltPipeline, slots: Slots, parameters: &[PlannedParameter]) -> Self {
        let mut pieces = Vec::new();
        let mut keys: Vec<_> = parameters.iter().map(|p| (p.stage, p.rule)).collect();
        keys.sort_unstable();
        keys.dedup();
        for (stage, rule) in keys {
            let members = parameters.iter().enumerate().filter(|(_, p)| (p.stage, p.rule) == (stage, rule));
            // An accelerator runs one kernel over everything.
            let piece = if pipeline.stages[stage].device == Device::Cpu { PIECE } else { usize::MAX };
            let members = members.map(|(slot, _)| (slot, slots.get(slot).parameter.numel()));
            pieces.extend(cut(members, piece).into_iter().map(|slices| Piece { stage, rule, slices }));
        }
        let order = Order::independent(lists(pipeline, &pieces));
        Self { slots, pieces, order }
    }

    /// For each slot, the sum of the squares of its gradient. It does not depend on how the work is
    /// shared out.
    pub(crate) fn gradient_squares(self: &Arc<Self>, pipeline: &Arc<BuiltPipeline>) -> Result<Vec<f64>> {
        let sums = self.pieces.iter().map(|_| Mutex::default()).collect();
        let run = self.run(pipeline, Work::Squares(sums))?;
        let Work::Squares(sums) = &run.work else { unreachable!("the work is as it was given") };
        let mut squares = vec![0.; self.slots.len()];
        for (piece, sums) in self.pieces.iter().zip(sums) {
            // The slices of a slot come in the order of its memory.
            for (slice, sum) in piece.slices.iter().zip(lock(sums).iter()) {
                squares[slice.slot] += sum;
            }
        }
        Ok(squares)
    }

    /// Updates all parameters by their rules.
    pub(crate) fn update(self: &Arc<Self>, pipeline: &Arc<BuiltPipeline>, rules: Vec<FusedRule>) -> Result<()> {
        self.run(pipeline, Work::Update(rules)).map(drop)
    }

    fn run(self: &Arc<Self>, pipeline: &Arc<BuiltPipeline>, work: Work) -> Result<Arc<UpdateRun>> {
        let run = Arc::new(UpdateRun { plan: Arc::clone(self), pipeline: Arc::clone(pipeline), work });
        pipeline.run(run.clone(), None)?;
        Ok(run)
    }
}

/// Cuts slots, given with their numbers of elements, into pieces of at most `most` elements.
fn cut(slots: impl Iterator<Item = (usize, usize)>, most: usize) -> Vec<Vec<Slice>> {
    let mut pieces = Vec::new();
    let mut piece: Vec<Slice> = Vec::new();
    let mut free = most;
    for (slot, elements) in slots {
        let mut start = 0;
        while start < elements {
            // A parameter is always cut at the same places, so that its norm does not depend on
            // which other parameters there are.
            let length = (elements - start).min(most);
            if length > free {
                pieces.push(std::mem::take(&mut piece));
                free = most;
            }
            piece.push(Slice { slot, start, length });
            free -= length;
            start += length;
        }
    }
    if !piece.is_empty() {
        pieces.push(piece);
    }
    pieces
}

/// The lists of the ranks. The pieces of an accelerator's stage are on its rank. Those of all
/// stages on the CPU are shared out evenly over as many ranks as there are threads.
fn lists(pipeline: &BuiltPipeline, pieces: &[Piece]) -> Vec<Vec<Action>> {
    let rank_of = pipeline.rank_of();
    let is_on_cpu = |stage: usize| pipeline.stages[stage].device == Device::Cpu;
    let own = (0..rank_of.len()).filter(|&stage| is_on_cpu(stage) && pipeline.is_here(stage));
    let cpu: BTreeSet<_> = own.map(|stage| rank_of[stage]).collect();
    let cores = available_parallelism().map_or(1, usize::from);
    let mut loads: Vec<_> =
        cpu.iter().take(Engine::<Error>::cpu_executors(cpu.len(), cores)).map(|&rank| (0, rank)).collect();
    let mut lists = vec![Vec::new(); rank_of.iter().max().map_or(0, |last| last + 1)];
    for (index, piece) in pieces.iter().enumerate() {
        let rank = match loads.iter_mut().min().filter(|_| is_on_cpu(piece.stage)) {
            Some((load, rank)) => {
                *load += piece.slices.iter().map(|slice| slice.length).sum::<usize>();
                *rank
            }
            None => rank_of[piece.stage],
        };
        // The executors only hand the action over; here its micro-batch is the piece.
        lists[rank].push(Action::new(ActionKind::BackwardWeight, piece.stage, index));
    }
    lists
}

/// The work on each piece.
enum Work {
    /// Computes the sums of the squares of the gradients, by piece and slice.
    Squares(Vec<Mutex<Vec<f64>>>),
    /// Updates by these rules.
    Update(Vec<FusedRule>),
}

struct UpdateRun {
    plan: Arc<UpdatePlan>,
    pipeline: Arc<BuiltPipeline>,
    work: Work,
}

impl Job for UpdateRun {
    type Error = Error;

    fn order(&self) -> &Order {
        &self.plan.order
    }

    fn perform(&self, action: Action) -> Result<()> {
        let Piece { stage, rule, slices } = &self.plan.pieces[action.micro_batch];
        let _stream = self.pipeline.streams.enter(*stage)?;
        match &self.work {
            Work::Squares(sums) => *lock(&sums[action.micro_batch]) = self.plan.slots.gradient_squares(slices)?,
            Work::Update(rules) => self.plan.slots.update(&rules[*rule], slices)?,
        }
        Ok(())
    }

    fn enter(&self) -> Result<Box<dyn Any>> {
        Ok(Box::new(self.pipeline.threads.enter()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_parameters_are_cut_and_small_ones_share_a_piece() {
        let slice = |slot, start, length| Slice { slot, start, length };
        let pieces = cut([(0, 3), (1, 25), (2, 0), (3, 4), (4, 1)].into_iter(), 10);
        assert_eq!(
            pieces,
            [
                vec![slice(0, 0, 3)],
                vec![slice(1, 0, 10)],
                vec![slice(1, 10, 10)],
                vec![slice(1, 20, 5), slice(3, 0, 4), slice(4, 0, 1)],
            ]
        );
        assert!(cut([].into_iter(), 10).is_empty());
    }
}
