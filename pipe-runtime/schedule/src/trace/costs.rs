use std::collections::BTreeMap;

use super::Trace;
use crate::list::ActionKind;
use crate::simulate::Costs;
use crate::support::median;

impl Trace {
    /// The costs of each stage per micro-batch: the medians of the times in all runs, and the
    /// observed sizes.
    ///
    /// If a backward was never split, half of its time counts for the inputs and half for the
    /// parameters. For a stage without recomputations, a recomputation counts as long as its
    /// forward. Transfers between devices of one process count for the action that receives, and
    /// their own times are zero; those of messages between processes are as measured.
    pub fn costs(&self) -> Costs {
        let mut times: BTreeMap<(usize, ActionKind), Vec<f64>> = BTreeMap::new();
        for step in self.runs.iter().flat_map(|run| &run.steps) {
            times.entry((step.action.stage, step.action.kind)).or_default().push(step.end - step.start);
        }
        let mut costs = self.sizes.clone();
        for (stage, cost) in costs.stages.iter_mut().enumerate() {
            let median = |kind| times.get(&(stage, kind)).map(|times| median(times));
            let half = median(ActionKind::Backward).map(|whole| whole / 2.);
            cost.forward = median(ActionKind::Forward).unwrap_or(0.);
            cost.recompute = median(ActionKind::Recompute).unwrap_or(cost.forward);
            cost.backward_input = median(ActionKind::BackwardInput).or(half).unwrap_or(0.);
            cost.backward_weight = median(ActionKind::BackwardWeight).or(half).unwrap_or(0.);
        }
        costs
    }
}
