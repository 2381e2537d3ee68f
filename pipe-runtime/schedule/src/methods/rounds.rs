/// Rounds of `size` micro-batches, in which they go through a rank's chunks: first all of a round
/// through chunk 0, then all of it through chunk 1, and so on.
pub(super) struct Rounds {
    size: usize,
    chunks: usize,
    micro_batches: usize,
}

impl Rounds {
    pub(super) fn new(ranks: usize, chunks: usize, micro_batches: usize) -> Self {
        Self { size: micro_batches / Self::number(ranks, micro_batches), chunks, micro_batches }
    }

    /// How many rounds there are; the micro-batches must be a multiple of it.
    pub(super) fn number(ranks: usize, micro_batches: usize) -> usize {
        (micro_batches / ranks).max(1)
    }

    /// Number of forwards before the first backward, on a rank from which a micro-batch takes
    /// `steps` steps to the end of the pipeline and back.
    pub(super) fn warm_up(&self, steps: usize) -> usize {
        (self.micro_batches * self.chunks).min((self.chunks - 1) * self.size + steps)
    }

    /// The chunk of the `step`-th forward.
    pub(super) fn forward_chunk(&self, step: usize) -> usize {
        step / self.size % self.chunks
    }

    /// The chunk of the `step`-th backward.
    pub(super) fn backward_chunk(&self, step: usize) -> usize {
        self.chunks - 1 - self.forward_chunk(step)
    }
}
