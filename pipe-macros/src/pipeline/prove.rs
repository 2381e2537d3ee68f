//! Places the annotated schedule on the annotated stages, and proves that its steps can run.

use pipe_schedule::{Limits, PlacementError, Schedule, ScheduleKind, ScheduleKindError, ValidationError};
use syn::Expr;

use crate::pipeline::model::Model;
use crate::pipeline::parse::{schedule_kind, whole_number};
use crate::pipeline::plan::{Plan, Stage, plan, stages};
use crate::support::errors::{Errors, error};

/// The greatest number of (stage, micro-batch) pairs for which the steps are made and proved. It
/// takes about 50 ms for that many, in a debug build of the macro.
const PROVED: usize = 1 << 9;

/// A schedule, and the stages that it runs.
pub struct Scheduled<'m> {
    pub kind: ScheduleKind,
    /// The place of the schedule in the source.
    pub written: &'m Expr,
    /// The annotated number of micro-batches, and its place.
    pub chunks: Option<(usize, &'m Expr)>,
    pub stages: Vec<Stage>,
    /// Rank of each stage, as the runtime places them.
    pub ranks: Result<Vec<usize>, PlacementError>,
}

impl<'m> Scheduled<'m> {
    /// Reads the model's schedule and stages; `None` if the schedule does not exist or there are no
    /// stages.
    pub fn of(model: &'m Model) -> Option<Self> {
        let written = model.settings.schedule.as_ref()?;
        let kind = schedule_kind(written)?;
        let stages = if model.has_devices { stages(model) } else { Vec::new() };
        if stages.is_empty() {
            return None;
        }
        let accelerators: Vec<_> = stages.iter().map(Stage::accelerator_site).collect();
        let ranks = kind.place(&accelerators, None);
        Some(Self { kind, written, chunks: chunks(model), stages, ranks })
    }

    /// The reason why the ranks or the micro-batches do not suit the schedule; `None` if they do.
    /// Without an annotated number of micro-batches, only the placement is checked.
    pub fn refusal(&self) -> Option<ScheduleKindError> {
        // Twice as many micro-batches as stages suit every schedule.
        let micro_batches = self.chunks.map_or(2 * self.stages.len(), |(chunks, _)| chunks);
        self.kind.check_on(self.ranks.as_ref().ok()?, micro_batches).err()
    }

    /// First stage of a rank.
    pub fn first_stage(&self, rank: usize) -> Option<&Stage> {
        let stage = self.ranks.as_ref().ok()?.iter().position(|&other| other == rank)?;
        self.stages.get(stage)
    }

    /// First stage of the first rank that has `most` stages.
    pub fn fullest(&self, most: usize) -> Option<&Stage> {
        let ranks = self.ranks.as_ref().ok()?;
        let stages = |rank| ranks.iter().filter(|&&other| other == rank).count();
        self.first_stage(*ranks.iter().find(|&&rank| stages(rank) == most)?)
    }
}

/// The annotated number of micro-batches, if it is valid.
pub fn chunks(model: &Model) -> Option<(usize, &Expr)> {
    let written = model.settings.chunks.as_ref()?;
    Some((whole_number(written).filter(|&chunks| chunks > 0)?, written))
}

/// Makes the steps of a model without errors, and proves them. A fault found here is a bug in the
/// schedule's generator, which would otherwise show at run time.
pub fn prove(model: &Model, errors: &mut Errors) {
    let Some(Scheduled { kind, written, chunks: Some((chunks, _)), ranks: Ok(ranks), .. }) = Scheduled::of(model)
    else {
        return;
    };
    if ranks.len().saturating_mul(chunks) > PROVED {
        return;
    }
    let Ok(schedule) = kind.schedule_on(&ranks, chunks) else { return };
    if let Err(faults) = proof(&schedule, kind, &ranks, &plan(model)) {
        let wrong = format!("`{kind}` makes steps that cannot run: {faults}");
        errors.push(error(written, wrong, "the mistake is the schedule's: choose another one, and report this one"));
    }
}

/// Checks that the stages are on the ranks where they were placed, that the schedule stays within
/// the limits that it declares, and that it serves the skips.
fn proof(schedule: &Schedule, kind: ScheduleKind, ranks: &[usize], plan: &Plan) -> Result<(), ValidationError> {
    let per_rank = schedule.stages / schedule.ranks.len().max(1);
    let declared = match kind {
        // GPipe takes any placement, so it declares no limits.
        ScheduleKind::GPipe => Limits::default(),
        _ => Limits::of(kind, schedule.ranks.len(), per_rank, schedule.micro_batches).unwrap_or_default(),
    };
    let placed = Limits { rank_of: Some(ranks.to_vec()), ..declared };
    let skips = plan.routes.iter().filter(|route| route.crosses()).map(|route| (route.from, route.to));
    let crossing = skips.chain(plan.hops.iter().map(|hop| (hop.from, hop.to)));
    schedule.validate(&crossing.fold(placed, |limits, (from, to)| limits.with_skip(from, to)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::tests::{mistakes, model};

    const FOUR: &str = "struct M { #[device(\"cpu\")] #[stash(s = output)] a: A, #[device(\"cpu\")] b: B, #[device(\"cpu\")] c: C, \
                        #[device(\"cpu\")] #[pop(s)] d: D }";

    #[test]
    fn every_schedule_is_proved_with_the_models_skips() {
        for kind in ScheduleKind::ALL {
            let name = if kind == ScheduleKind::OneFOneB { "\"1f1b\"" } else { kind.name() };
            assert_eq!(mistakes(&format!("#[pipeline(schedule = {name}, chunks = 8)] {FOUR}")), "", "{kind}");
        }
    }

    #[test]
    fn steps_that_cannot_run_are_no_proof() {
        let ranks = [0, 1, 2, 3];
        let plan = plan(&model(FOUR));
        let mut schedule = ScheduleKind::OneFOneB.schedule_on(&ranks, 4).unwrap();
        assert_eq!(proof(&schedule, ScheduleKind::OneFOneB, &ranks, &plan), Ok(()));
        schedule.ranks[3].reverse();
        assert!(proof(&schedule, ScheduleKind::OneFOneB, &ranks, &plan).is_err());
    }
}
