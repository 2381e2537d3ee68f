use std::collections::VecDeque;

use crate::list::{Action, ActionKind};

/// Builds the list of one rank. A `stage` is an index into the rank's stages, from 0. The
/// micro-batches of each kind of action and each stage are counted automatically. Micro-batches
/// from `micro_batches` on are counted but left out.
pub(super) struct RankList {
    stages: Vec<usize>,
    micro_batches: usize,
    next: Vec<[usize; 5]>,
    weights: VecDeque<Action>,
    actions: Vec<Action>,
}

impl RankList {
    pub(super) fn new(stages: impl IntoIterator<Item = usize>, micro_batches: usize) -> Self {
        let stages: Vec<_> = stages.into_iter().collect();
        Self { next: vec![[0; 5]; stages.len()], stages, micro_batches, weights: VecDeque::new(), actions: Vec::new() }
    }

    /// Adds the next forward of `stage`.
    pub(super) fn f(&mut self, stage: usize) {
        self.push(ActionKind::Forward, stage);
    }

    /// Adds the next whole backward of `stage`.
    pub(super) fn b(&mut self, stage: usize) {
        // Both kinds of backward share a counter, so that a stage may change from one to the other.
        let micro_batch = self.backward(stage);
        self.append(Action::backward(self.stages[stage], micro_batch));
    }

    /// Adds the next backward for the inputs of `stage`.
    pub(super) fn i(&mut self, stage: usize) {
        let micro_batch = self.backward(stage);
        self.append(Action::backward_input(self.stages[stage], micro_batch));
        self.weights.push_back(Action::backward_weight(self.stages[stage], micro_batch));
    }

    /// Adds the backward for the parameters that has waited longest in `stage`.
    pub(super) fn w(&mut self, stage: usize) {
        let number = self.stages[stage];
        if let Some(at) = self.weights.iter().position(|action| action.stage == number) {
            let action = self.weights.remove(at);
            self.actions.extend(action.filter(|action| action.micro_batch < self.micro_batches));
        }
    }

    /// Adds the backward for the parameters that has waited longest in any stage.
    pub(super) fn oldest_w(&mut self) {
        let action = self.weights.pop_front();
        self.actions.extend(action.filter(|action| action.micro_batch < self.micro_batches));
    }

    /// The number of forwards of `stage` so far.
    pub(super) fn forwards(&self, stage: usize) -> usize {
        self.next[stage][ActionKind::Forward as usize]
    }

    /// Returns the list, with the remaining backwards for the parameters at its end.
    pub(super) fn flush(mut self) -> Vec<Action> {
        while !self.weights.is_empty() {
            self.oldest_w();
        }
        self.actions
    }

    fn backward(&mut self, stage: usize) -> usize {
        let next = &mut self.next[stage][ActionKind::Backward as usize];
        *next += 1;
        *next - 1
    }

    fn push(&mut self, kind: ActionKind, stage: usize) {
        let next = &mut self.next[stage][kind as usize];
        let action = Action::new(kind, self.stages[stage], *next);
        *next += 1;
        self.append(action);
    }

    fn append(&mut self, action: Action) {
        if action.micro_batch < self.micro_batches {
            self.actions.push(action);
        }
    }
}
