//! Advice with everything free: the schedule, the micro-batches, the cuts, the recomputed layers.

use super::layers::{Division, Layers};
use super::search::Search;
use super::{Candidate, Units};
use crate::checkpoint::Checkpoint;
use crate::methods::{ScheduleKind, ScheduleKindError};
use crate::simulate::SimulationError;

/// The choices of [`advise_layers`].
#[derive(Clone, Debug, PartialEq)]
pub struct LayerOptions {
    /// The number of ranks.
    pub ranks: usize,
    /// The most stages that a rank may have.
    pub stages_per_rank: usize,
    /// Time that each action takes on top of its work.
    pub overhead: f64,
    /// The schedules to try.
    pub schedules: Vec<ScheduleKind>,
    /// The checkpoint modes to try. Layers are recomputed only with [`Checkpoint::Never`].
    pub checkpoints: Vec<Checkpoint>,
    /// The most divisions that are simulated for a schedule, a number of micro-batches and a
    /// checkpoint mode. With more of them, the advice may be off by its [`LayerAdvice::gap`].
    pub attempts: usize,
    /// The units of the costs.
    pub units: Units,
}

impl LayerOptions {
    /// All schedules with one or two stages per rank, and all checkpoint modes.
    pub fn new(ranks: usize) -> Self {
        Self {
            ranks,
            stages_per_rank: 2,
            overhead: 0.,
            schedules: ScheduleKind::ALL.to_vec(),
            checkpoints: Checkpoint::ALL.to_vec(),
            attempts: 500,
            units: Units::Plain,
        }
    }
}

/// A way to run the layers of a model.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LayerCandidate {
    /// Which of the costs it is for.
    pub variant: usize,
    /// The schedule, its settings, its time and memory.
    pub candidate: Candidate,
    /// The stages, and the recomputed layers.
    pub division: Division,
}

/// The result of [`advise_layers`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
#[must_use]
pub struct LayerAdvice {
    /// The fastest way that fits; `None` if none was found.
    pub best: Option<LayerCandidate>,
    /// Of the ways that were tried, the one that needs the least memory.
    pub smallest: Option<LayerCandidate>,
    /// The fastest way for each variant, schedule, number of micro-batches and checkpoint mode, the
    /// best first. Those that cannot be the best are left out.
    pub fitting: Vec<LayerCandidate>,
    /// No way that fits takes less time, according to the costs.
    pub bound: f64,
    /// The schedules that cannot run so many micro-batches on so many ranks, with the reasons.
    pub refused: Vec<(usize, ScheduleKindError)>,
    /// The memory of a rank.
    pub memory_limit: f64,
    /// The units of times and sizes.
    pub units: Units,
    /// The number of divisions that were simulated.
    pub simulated: usize,
}

impl LayerAdvice {
    /// How much more time the best way takes than the lower bound, as a part of it: 0 if it is
    /// proved to be the best.
    pub fn gap(&self) -> Option<f64> {
        let best = self.best.as_ref()?;
        Some(if self.bound > 0. { (best.candidate.time / self.bound - 1.).max(0.) } else { 0. })
    }
}

/// Finds the schedule, the number of micro-batches, the checkpoint mode, the cuts and the
/// recomputed layers with which a step is fastest, of those that need at most `memory_limit` on
/// each rank. `variants` are costs of the same model with other numbers of micro-batches and other
/// settings; the best one is found too.
///
/// # Errors
///
/// Fails if the number of boundaries is not one less than the number of layers, or if a skip does
/// not lead forward.
pub fn advise_layers(
    variants: &[Layers],
    memory_limit: f64,
    options: &LayerOptions,
) -> Result<LayerAdvice, SimulationError> {
    variants.iter().try_for_each(Layers::check)?;
    let mut advice = LayerAdvice {
        best: None,
        smallest: None,
        fitting: Vec::new(),
        bound: f64::INFINITY,
        refused: Vec::new(),
        memory_limit,
        units: options.units,
        simulated: 0,
    };
    let mut searches = Vec::new();
    for (variant, layers) in variants.iter().enumerate() {
        let micro_batches = layers.micro_batches;
        let is_first = variants[..variant].iter().all(|before| before.micro_batches != micro_batches);
        for &kind in &options.schedules {
            for stages_per_rank in 1..=options.stages_per_rank {
                if kind.stages_per_rank().is_some_and(|needed| needed != stages_per_rank)
                    || (super::loops(kind) && stages_per_rank == 1)
                    || layers.layers.len() < options.ranks.saturating_mul(stages_per_rank)
                {
                    continue;
                }
                let schedule = match kind.schedule(options.ranks, stages_per_rank, micro_batches) {
                    Ok(schedule) => schedule,
                    Err(error) => {
                        advice.refused.extend(is_first.then_some((micro_batches, error)));
                        continue;
                    }
                };
                for &checkpoint in &options.checkpoints {
                    let schedule = schedule.clone().with_recompute(|_, i| checkpoint.applies(i, micro_batches));
                    let candidate = Candidate {
                        kind,
                        ranks: options.ranks,
                        stages_per_rank,
                        micro_batches,
                        checkpoint,
                        time: f64::INFINITY,
                        memory: f64::INFINITY,
                    };
                    searches.push(Search::new(variant, layers.clone(), schedule, candidate, options, memory_limit));
                }
            }
        }
    }
    // The one that may be the fastest comes first, so that many others need not be searched.
    searches.sort_by(|a, b| a.bound.total_cmp(&b.bound));
    for mut search in searches {
        let best = advice.best.as_ref().map_or(f64::INFINITY, |best| best.candidate.time);
        if search.bound >= best && best.is_finite() {
            advice.bound = advice.bound.min(search.bound);
            continue;
        }
        search.run(best, &mut advice.smallest)?;
        advice.simulated += search.simulated;
        advice.bound = advice.bound.min(search.proved);
        if let Some(found) = search.best {
            advice.fitting.push(found);
            advice.fitting.sort_by(by_time);
            advice.best = advice.fitting.first().cloned();
        }
    }
    if let Some(best) = &advice.best {
        advice.bound = advice.bound.min(best.candidate.time);
    }
    Ok(advice)
}

pub(super) fn by_time(a: &LayerCandidate, b: &LayerCandidate) -> std::cmp::Ordering {
    let (x, y) = (&a.candidate, &b.candidate);
    let recomputed = |candidate: &LayerCandidate| candidate.division.recomputed.iter().filter(|layer| **layer).count();
    let simplest = |candidate: &LayerCandidate| {
        let Candidate { kind, checkpoint, micro_batches, .. } = candidate.candidate;
        (candidate.variant, recomputed(candidate), kind, checkpoint, micro_batches)
    };
    x.time.total_cmp(&y.time).then(x.memory.total_cmp(&y.memory)).then(simplest(a).cmp(&simplest(b)))
}
