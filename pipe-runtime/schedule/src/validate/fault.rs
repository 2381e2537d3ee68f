use std::fmt;

use crate::list::Action;
use crate::lower::{MessageFault, Transport};

/// A fault in a schedule.
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
        /// The rank whose list it is.
        rank: usize,
        /// Number of stages.
        stages: usize,
        /// Number of micro-batches.
        micro_batches: usize,
    },
    /// There are no stages or no micro-batches.
    #[error("{stages} stages and {micro_batches} micro-batches: neither may be zero")]
    Empty {
        /// Number of stages.
        stages: usize,
        /// Number of micro-batches.
        micro_batches: usize,
    },
    /// An action is in the lists more than once.
    #[error("`{action}` is done twice: by rank {} as number {} and by rank {} as number {}", first.0, first.1 + 1, again.0, again.1 + 1)]
    Twice {
        /// The action.
        action: Action,
        /// The rank of one occurrence, and its place in the rank's list, from 0.
        first: (usize, usize),
        /// The rank and the place of another occurrence.
        again: (usize, usize),
    },
    /// An action is missing.
    #[error("`{action}` is missing: {why}")]
    Missing {
        /// The action.
        action: Action,
        /// Why it must be there.
        why: Missing,
    },
    /// A micro-batch has both a whole and a split backward in one stage.
    #[error("`{whole}` and `{part}` are both there: a backward is either whole (`B`) or split (`I` and `W`)")]
    WholeAndSplit {
        /// The whole backward.
        whole: Action,
        /// The part of the split backward.
        part: Action,
    },
    /// Two actions of one micro-batch in one stage are in the wrong order.
    #[error("`{action}` comes before `{needed}` on rank {rank}, which it needs")]
    Early {
        /// The action that comes too early.
        action: Action,
        /// The action that must come before it.
        needed: Action,
        /// The rank whose list it is.
        rank: usize,
    },
    /// A recomputation comes after the backward that it is for.
    #[error("`{action}` comes after `{user}` on rank {rank}, which it is for")]
    LateRecompute {
        /// The recomputation.
        action: Action,
        /// The backward that uses it.
        user: Action,
        /// The rank whose list it is.
        rank: usize,
    },
    /// A stage is on two ranks, or on another rank than the given one.
    #[error("`{action}` is on rank {rank}, and stage {} belongs to rank {owner}", action.stage)]
    Elsewhere {
        /// The action.
        action: Action,
        /// The rank that it is on.
        rank: usize,
        /// The rank of the stage's first action, or the rank that the stage was placed on.
        owner: usize,
    },
    /// A rank has fewer stages than it must have.
    #[error("rank {rank} has {stages} stages and needs {needed}: its peers would wait for what it does not do")]
    FewerStages {
        /// The rank.
        rank: usize,
        /// Number of stages on it.
        stages: usize,
        /// Number of stages that every rank must have.
        needed: usize,
    },
    /// Actions wait for each other.
    #[error("these wait for each other: {0}")]
    Cycle(
        /// Each waits for the next, and the last for the first.
        Cycle,
    ),
    /// A rank has more pairs in flight than declared.
    #[error(
        "rank {rank} has {peak} pairs of a stage and a micro-batch in flight from `{action}` on, and {declared} are declared"
    )]
    Peak {
        /// The rank.
        rank: usize,
        /// Peak number of in-flight (stage, micro-batch) pairs.
        peak: usize,
        /// The declared peak.
        declared: usize,
        /// The first action that reaches the peak.
        action: Action,
    },
    /// The peaks are declared for another number of ranks.
    #[error("{declared} peaks are declared for {ranks} ranks")]
    Peaks {
        /// Number of declared peaks.
        declared: usize,
        /// Number of ranks.
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
        /// Number of stages.
        stages: usize,
    },
    /// More micro-batches of a skip may be in transit than declared.
    #[error(
        "up to {peak} micro-batches' values of the skip from stage {from} to stage {to} may wait, and {declared} are declared"
    )]
    Transit {
        /// The stage where it starts.
        from: usize,
        /// The stage where it ends.
        to: usize,
        /// Largest possible number of micro-batches in transit, whatever the times are.
        peak: usize,
        /// The declared number.
        declared: usize,
    },
    /// There is a fault in the messages between the ranks.
    #[error("{transport}: {fault}")]
    Message {
        /// The transport for which it was found.
        transport: Transport,
        /// The fault.
        fault: MessageFault,
    },
}

/// Why an action must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Every micro-batch goes forward through every stage.
    Forward,
    /// Every micro-batch goes backward through every stage.
    Backward,
    /// A split backward has both parts.
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
    /// A rank, its next action, and the action that it waits for, which comes later in the list of
    /// its rank.
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

/// The faults of a schedule. It prints one line per fault.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ValidationError {
    /// The faults that were found.
    pub faults: Vec<Fault>,
    /// Number of further faults that are not listed, so that an entirely wrong list does not fill
    /// the screen.
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
