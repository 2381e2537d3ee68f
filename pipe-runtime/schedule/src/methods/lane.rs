use std::collections::VecDeque;

use crate::list::{Action, Kind};

/// One rank's list in the making: the micro-batches of each kind and chunk (the rank's stages, counted by the rank) come in
/// turn by themselves. Those from `micro_batches` on are counted but left out.
pub(super) struct Lane {
    stages: Vec<usize>,
    micro_batches: usize,
    next: Vec<[usize; 5]>,
    weights: VecDeque<Action>,
    list: Vec<Action>,
}

impl Lane {
    pub(super) fn new(stages: impl IntoIterator<Item = usize>, micro_batches: usize) -> Self {
        let stages: Vec<_> = stages.into_iter().collect();
        Self { next: vec![[0; 5]; stages.len()], stages, micro_batches, weights: VecDeque::new(), list: Vec::new() }
    }

    /// The next forward of `chunk`.
    pub(super) fn f(&mut self, chunk: usize) {
        self.push(Kind::Forward, chunk);
    }

    /// The next whole backward of `chunk`.
    pub(super) fn b(&mut self, chunk: usize) {
        // Both kinds of backward share a counter, so that a chunk may change from one to the other.
        let micro_batch = self.backward(chunk);
        self.append(Action::backward(self.stages[chunk], micro_batch));
    }

    /// The next backward for the inputs of `chunk`.
    pub(super) fn i(&mut self, chunk: usize) {
        let micro_batch = self.backward(chunk);
        self.append(Action::backward_input(self.stages[chunk], micro_batch));
        self.weights.push_back(Action::backward_weight(self.stages[chunk], micro_batch));
    }

    /// The backward for the parameters that has waited longest in `chunk`.
    pub(super) fn w(&mut self, chunk: usize) {
        let stage = self.stages[chunk];
        if let Some(at) = self.weights.iter().position(|action| action.stage == stage) {
            let action = self.weights.remove(at);
            self.list.extend(action.filter(|action| action.micro_batch < self.micro_batches));
        }
    }

    /// The backward for the parameters that has waited longest in any chunk.
    pub(super) fn oldest_w(&mut self) {
        let action = self.weights.pop_front();
        self.list.extend(action.filter(|action| action.micro_batch < self.micro_batches));
    }

    /// How many forwards of `chunk` there have been.
    pub(super) fn forwards(&self, chunk: usize) -> usize {
        self.next[chunk][Kind::Forward as usize]
    }

    /// The list, with the backwards for the parameters that are still open at its end.
    pub(super) fn flush(mut self) -> Vec<Action> {
        while !self.weights.is_empty() {
            self.oldest_w();
        }
        self.list
    }

    fn backward(&mut self, chunk: usize) -> usize {
        let next = &mut self.next[chunk][Kind::Backward as usize];
        *next += 1;
        *next - 1
    }

    fn push(&mut self, kind: Kind, chunk: usize) {
        let next = &mut self.next[chunk][kind as usize];
        let action = Action::new(kind, self.stages[chunk], *next);
        *next += 1;
        self.append(action);
    }

    fn append(&mut self, action: Action) {
        if action.micro_batch < self.micro_batches {
            self.list.push(action);
        }
    }
}
