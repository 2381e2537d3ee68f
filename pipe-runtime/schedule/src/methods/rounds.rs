/// Rounds of `size` micro-batches. All micro-batches of a round go through the rank's first stage,
/// then all of them through its second stage, and so on.
pub(super) struct Rounds {
    size: usize,
    stages_per_rank: usize,
    micro_batches: usize,
}

impl Rounds {
    pub(super) fn new(ranks: usize, stages_per_rank: usize, micro_batches: usize) -> Self {
        Self { size: micro_batches / Self::number(ranks, micro_batches), stages_per_rank, micro_batches }
    }

    /// The number of rounds; the number of micro-batches must be a multiple of it.
    pub(super) fn number(ranks: usize, micro_batches: usize) -> usize {
        (micro_batches / ranks).max(1)
    }

    /// The number of warm-up forwards, after which each forward is followed by a backward. It is
    /// the number of forwards in a round that come before the rank's last stage, plus `steps`.
    pub(super) fn warm_up(&self, steps: usize) -> usize {
        (self.micro_batches * self.stages_per_rank).min((self.stages_per_rank - 1) * self.size + steps)
    }

    /// The stage of the `step`-th forward, as an index into the rank's stages.
    pub(super) fn forward_stage(&self, step: usize) -> usize {
        step / self.size % self.stages_per_rank
    }

    /// The stage of the `step`-th backward, as an index into the rank's stages.
    pub(super) fn backward_stage(&self, step: usize) -> usize {
        self.stages_per_rank - 1 - self.forward_stage(step)
    }
}
