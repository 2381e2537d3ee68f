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

    /// The number of forwards before the first backward, on a rank from which a micro-batch takes
    /// `steps` steps to the end of the pipeline and back.
    pub(super) fn warm_up(&self, steps: usize) -> usize {
        (self.micro_batches * self.stages_per_rank).min((self.stages_per_rank - 1) * self.size + steps)
    }

    /// The rank's stage of the `step`-th forward.
    pub(super) fn forward_stage(&self, step: usize) -> usize {
        step / self.size % self.stages_per_rank
    }

    /// The rank's stage of the `step`-th backward.
    pub(super) fn backward_stage(&self, step: usize) -> usize {
        self.stages_per_rank - 1 - self.forward_stage(step)
    }
}
