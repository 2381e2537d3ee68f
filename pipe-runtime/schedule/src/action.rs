use std::fmt;

/// What is done with one micro-batch in one stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Forward (`F`).
    Forward,
    /// The forward again, with its graph, before the backward of a checkpointed micro-batch (`R`).
    Recompute,
    /// Backward, for the inputs and the parameters at once (`B`).
    Backward,
}

/// One entry of an op list: `Action::forward(1, 3)` is micro-batch 3 through stage 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Action {
    /// What is done.
    pub kind: Kind,
    /// In which stage, from 0.
    pub stage: usize,
    /// With which micro-batch, from 0.
    pub micro_batch: usize,
}

impl Action {
    /// Micro-batch `micro_batch` forward through `stage`.
    pub const fn forward(stage: usize, micro_batch: usize) -> Self {
        Self { kind: Kind::Forward, stage, micro_batch }
    }

    /// The recomputation of that forward.
    pub const fn recompute(stage: usize, micro_batch: usize) -> Self {
        Self { kind: Kind::Recompute, stage, micro_batch }
    }

    /// Its backward.
    pub const fn backward(stage: usize, micro_batch: usize) -> Self {
        Self { kind: Kind::Backward, stage, micro_batch }
    }
}

/// As in PyTorch's schedule files: stage, kind, micro-batch (`1F3`).
impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Forward => 'F',
            Kind::Recompute => 'R',
            Kind::Backward => 'B',
        };
        write!(f, "{}{kind}{}", self.stage, self.micro_batch)
    }
}
