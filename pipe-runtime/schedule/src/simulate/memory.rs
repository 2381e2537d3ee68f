use std::collections::HashMap;

use super::{Costs, Transfer};
use crate::list::{Action, ActionKind, Schedule};
use crate::timeline::Span;

/// The peak memory of each rank, and the peak number of values in transit of each skip.
pub(super) fn peaks(
    schedule: &Schedule,
    costs: &Costs,
    rank_of: &[Option<usize>],
    spans: &[Vec<Span>],
) -> (Vec<f64>, Vec<usize>) {
    let mut ledger = Ledger { ranks: vec![Vec::new(); schedule.ranks.len()] };
    let recomputed: HashMap<(usize, usize), ()> = schedule
        .actions()
        .filter(|action| action.kind == ActionKind::Recompute)
        .map(|action| ((action.stage, action.micro_batch), ()))
        .collect();
    let mut has_gradients = vec![false; costs.stages.len()];
    for (rank, list) in spans.iter().enumerate() {
        for &Span { action, start, end } in list {
            let Action { kind, stage, micro_batch } = action;
            let cost = &costs.stages[stage];
            let recomputed = recomputed.contains_key(&(stage, micro_batch));
            if matches!(kind, ActionKind::Backward | ActionKind::BackwardWeight)
                && !std::mem::replace(&mut has_gradients[stage], true)
            {
                ledger.change(rank, start, cost.gradients);
            }
            let working = match kind {
                // The graph of a forward that will be recomputed is recorded, and dropped then.
                ActionKind::Forward if recomputed => cost.activation + cost.forward_working,
                ActionKind::Forward | ActionKind::Recompute => cost.forward_working,
                ActionKind::Backward => cost.backward_working,
                ActionKind::BackwardInput => cost.input_working,
                ActionKind::BackwardWeight => cost.weight_working,
            };
            ledger.hold(Some(rank), start, end, working);
            let checkpoint = if recomputed { cost.checkpoint } else { 0. };
            match kind {
                // A forward that will be recomputed keeps only the inputs of the stage.
                ActionKind::Forward => {
                    ledger.change(rank, start, if recomputed { checkpoint } else { cost.activation });
                }
                ActionKind::Recompute => ledger.change(rank, start, cost.activation),
                ActionKind::Backward => ledger.change(rank, end, -cost.activation - checkpoint),
                ActionKind::BackwardInput => ledger.change(rank, end, cost.for_weights - cost.activation - checkpoint),
                ActionKind::BackwardWeight => ledger.change(rank, end, -cost.for_weights),
            }
        }
    }
    let mut times = Times::default();
    let takes_memory = |boundary: &Transfer| boundary.size != 0. || boundary.gradient != 0.;
    if !costs.skips.is_empty() || costs.boundaries.iter().any(takes_memory) {
        times = Times::new(spans);
    }
    for (stage, boundary) in costs.boundaries.iter().enumerate().filter(|(_, boundary)| takes_memory(boundary)) {
        times.between(stage, stage + 1, |gradient, from, until| {
            // The value is sent at once and waits at its destination.
            let rank = if gradient { rank_of[stage] } else { rank_of[stage + 1] };
            ledger.hold(rank, from, until, boundary.held(gradient));
        });
    }
    let mut in_transit = Vec::new();
    for skip in &costs.skips {
        let mut waiting: Vec<(f64, i64)> = Vec::new();
        times.between(skip.from, skip.to, |gradient, from, until| {
            let rank = if gradient { rank_of[skip.to] } else { rank_of[skip.from] };
            ledger.hold(rank, from, until, skip.transfer.held(gradient));
            if !gradient {
                waiting.extend([(from, 1), (until, -1)]);
            }
        });
        // A value that is made at the moment when another one is used counts together with it.
        waiting.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
        let counts = waiting.iter().scan(0, |count, &(_, change)| {
            *count += change;
            Some(*count)
        });
        in_transit.push(counts.max().unwrap_or(0).max(0) as usize);
    }
    let parameters = |rank| {
        let own = |&(stage, _): &(usize, _)| rank_of[stage] == Some(rank);
        costs.stages.iter().enumerate().filter(own).map(|(_, cost)| cost.parameters).sum::<f64>()
    };
    let peaks = ledger.ranks.into_iter().enumerate().map(|(rank, changes)| parameters(rank) + peak(changes));
    (peaks.collect(), in_transit)
}

/// The changes of each rank's memory: the time, and the difference.
struct Ledger {
    ranks: Vec<Vec<(f64, f64)>>,
}

impl Ledger {
    fn change(&mut self, rank: usize, time: f64, amount: f64) {
        if amount != 0. {
            self.ranks[rank].push((time, amount));
        }
    }

    fn hold(&mut self, rank: Option<usize>, from: f64, until: f64, amount: f64) {
        if let Some(rank) = rank.filter(|_| from < until) {
            self.change(rank, from, amount);
            self.change(rank, until, -amount);
        }
    }
}

/// The highest sum. Memory that is freed at a time is available for what is allocated at that time.
fn peak(mut changes: Vec<(f64, f64)>) -> f64 {
    changes.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let (mut sum, mut peak) = (0., 0_f64);
    for (_, amount) in changes {
        sum += amount;
        peak = peak.max(sum);
    }
    peak
}

/// For each stage, the times at which each micro-batch starts and ends, in the forward and in the
/// backward.
#[derive(Default)]
struct Times {
    forward: Vec<Vec<(usize, f64, f64)>>,
    backward: Vec<Vec<(usize, f64, f64)>>,
}

impl Times {
    fn new(spans: &[Vec<Span>]) -> Self {
        let mut times = Self::default();
        for span in spans.iter().flatten() {
            let list = match span.action.kind {
                ActionKind::Forward => &mut times.forward,
                ActionKind::Backward | ActionKind::BackwardInput => &mut times.backward,
                _ => continue,
            };
            if list.len() <= span.action.stage {
                list.resize(span.action.stage + 1, Vec::new());
            }
            list[span.action.stage].push((span.action.micro_batch, span.start, span.end));
        }
        for list in times.forward.iter_mut().chain(&mut times.backward) {
            list.sort_by_key(|&(micro_batch, ..)| micro_batch);
        }
        times
    }

    /// Calls `each` for every value and gradient: whether it is a gradient, when it is made, and
    /// when it is used.
    fn between(&self, from: usize, to: usize, mut each: impl FnMut(bool, f64, f64)) {
        for (gradient, list, maker, user) in [(false, &self.forward, from, to), (true, &self.backward, to, from)] {
            let (Some(made), Some(used)) = (list.get(maker), list.get(user)) else { continue };
            for &(micro_batch, _, end) in made {
                if let Ok(at) = used.binary_search_by_key(&micro_batch, |&(micro_batch, ..)| micro_batch) {
                    each(gradient, end, used[at].1);
                }
            }
        }
    }
}
