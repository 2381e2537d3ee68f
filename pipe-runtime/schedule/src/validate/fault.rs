use std::fmt;

use crate::list::Action;
use crate::lower::{MessageFault, Transport};

/// A fault in the lists of a schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// An action has a stage or a micro-batch that does not exist.
    #[error(
        "`{action}` on rank {rank} is out of range: there are {stages} stages and {micro_batches} micro-batches, from 0"
    )]
    OutOfRange {
        /// The action.
        action: Action,
        /// The rank.
        rank: usize,
        /// The number of stages.
        stages: usize,
        /// The number of micro-batches.
        micro_batches: usize,
    },
    /// The schedule has no stages or no micro-batches.
    #[error("{stages} stages and {micro_batches} micro-batches: neither may be zero")]
    Empty {
        /// The number of stages.
        stages: usize,
        /// The number of micro-batches.
        micro_batches: usize,
    },
    /// An action occurs more than once.
    #[error("`{action}` is done twice: by rank {} as number {} and by rank {} as number {}", first.0, first.1 + 1, again.0, again.1 + 1)]
    Twice {
        /// The action.
        action: Action,
        /// The rank, and the position in its list, from 0.
        first: (usize, usize),
        /// The rank and the position of the other occurrence.
        again: (usize, usize),
    },
    /// An action is missing.
    #[error("`{action}` is missing: {why}")]
    Missing {
        /// The action.
        action: Action,
        /// The reason why it is needed.
        why: Missing,
    },
    /// A micro-batch's backward occurs both whole and split.
    #[error("`{whole}` and `{part}` are both there: a backward is either whole (`B`) or split (`I` and `W`)")]
    WholeAndSplit {
        /// The whole backward.
        whole: Action,
        /// The part of a split one.
        part: Action,
    },
    /// Two actions of one micro-batch in one stage are in the wrong order.
    #[error("`{action}` comes before `{needed}` on rank {rank}, which it needs")]
    Early {
        /// The action that comes too early.
        action: Action,
        /// The action that must come before it.
        needed: Action,
        /// The rank.
        rank: usize,
    },
    /// A recomputation comes after the backward that needs it.
    #[error("`{action}` comes after `{user}` on rank {rank}, which it is for")]
    LateRecompute {
        /// The recomputation.
        action: Action,
        /// The backward that needs it.
        user: Action,
        /// The rank.
        rank: usize,
    },
    /// A stage is on two ranks, or not on the rank where it was placed.
    #[error("`{action}` is on rank {rank}, and stage {} belongs to rank {owner}", action.stage)]
    Elsewhere {
        /// The action.
        action: Action,
        /// The rank of the action.
        rank: usize,
        /// The rank of the stage's first action, or the rank where the stage was placed.
        owner: usize,
    },
    /// A rank has too few stages.
    #[error("rank {rank} has {stages} stages and needs {needed}: its peers would wait for what it does not do")]
    FewerStages {
        /// The rank.
        rank: usize,
        /// Its number of stages.
        stages: usize,
        /// The number of stages that every rank must have.
        needed: usize,
    },
    /// Actions wait for each other.
    #[error("these wait for each other: {0}")]
    Cycle(
        /// The actions: each waits for the next, and the last for the first.
        Cycle,
    ),
    /// More pairs are in flight than declared.
    #[error(
        "rank {rank} has {peak} pairs of a stage and a micro-batch in flight from `{action}` on, and {declared} are declared"
    )]
    Peak {
        /// The rank.
        rank: usize,
        /// The peak number of (stage, micro-batch) pairs in flight.
        peak: usize,
        /// The declared number.
        declared: usize,
        /// The first action that reaches the peak.
        action: Action,
    },
    /// The limits are declared for another number of ranks.
    #[error("{declared} peaks are declared for {ranks} ranks")]
    Peaks {
        /// The number of declared limits.
        declared: usize,
        /// The number of ranks.
        ranks: usize,
    },
    /// A skip does not lead from a stage to a later one.
    #[error(
        "the skip from stage {from} to stage {to} cannot be served: it must lead to a later one of {stages} stages"
    )]
    Unserved {
        /// The stage where it starts.
        from: usize,
        /// The stage where it ends.
        to: usize,
        /// The number of stages.
        stages: usize,
    },
    /// More values of a skip wait between its stages than declared.
    #[error(
        "up to {peak} micro-batches' values of the skip from stage {from} to stage {to} may wait, and {declared} are declared"
    )]
    Transit {
        /// The stage where it starts.
        from: usize,
        /// The stage where it ends.
        to: usize,
        /// The greatest number that can wait at once.
        peak: usize,
        /// The declared number.
        declared: usize,
    },
    /// The messages between the ranks have a fault.
    #[error("{transport}: {fault}")]
    Message {
        /// The transport.
        transport: Transport,
        /// The fault.
        fault: MessageFault,
    },
}

/// The reason why an action is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Each micro-batch goes through each stage.
    Forward,
    /// A forward needs a backward.
    Backward,
    /// It is the other part of a split backward.
    OtherPart,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Missing::Forward => "every micro-batch goes forward through every stage",
            Missing::Backward => "every micro-batch goes backward through every stage, by `B` or by `I` and `W`",
            Missing::OtherPart => "a split backward has both an `I` and a `W`",
        })
    }
}

/// Actions that wait for each other in a cycle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cycle(
    /// A rank, its next action, and the action that this one waits for, which comes later in its
    /// rank's list.
    pub Vec<(usize, Action, Action)>,
);

impl fmt::Display for Cycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (rank, action, needed)) in self.0.iter().enumerate() {
            let separator = if number > 0 { "; " } else { "" };
            write!(f, "{separator}rank {rank} cannot go on to `{action}` before `{needed}`")?;
        }
        Ok(())
    }
}

/// The faults that were found in a schedule, one per line.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ValidationError {
    /// The faults that are listed.
    pub faults: Vec<Fault>,
    /// The number of faults that are not listed, because there are many of one kind.
    pub more: usize,
}

impl fmt::Display for ValidationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.faults.iter().map(|fault| fault.to_string()).collect();
        f.write_str(&lines.join("\n"))?;
        if self.more > 0 {
            write!(f, "\nand {} more", self.more)?;
        }
        Ok(())
    }
}

impl std::error::Error for ValidationError {}
