use std::fmt;

use crate::list::Action;
use crate::lower::{MessageFault, Transport};

/// Something wrong with a list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// There is no such stage or micro-batch.
    #[error(
        "`{action}` on rank {rank} is out of range: there are {stages} stages and {micro_batches} micro-batches, from 0"
    )]
    OutOfRange {
        /// Which action.
        action: Action,
        /// Where.
        rank: usize,
        /// How many stages there are.
        stages: usize,
        /// How many micro-batches.
        micro_batches: usize,
    },
    /// There is nothing to do.
    #[error("{stages} stages and {micro_batches} micro-batches: neither may be zero")]
    Empty {
        /// How many stages there are.
        stages: usize,
        /// How many micro-batches.
        micro_batches: usize,
    },
    /// It is done more than once.
    #[error("`{action}` is done twice: by rank {} as number {} and by rank {} as number {}", first.0, first.1 + 1, again.0, again.1 + 1)]
    Twice {
        /// Which action.
        action: Action,
        /// The rank, and the place in its list, from 0.
        first: (usize, usize),
        /// The other place.
        again: (usize, usize),
    },
    /// It is not done at all.
    #[error("`{action}` is missing: {why}")]
    Missing {
        /// Which action.
        action: Action,
        /// What needs it.
        why: Missing,
    },
    /// One micro-batch's backward is there both whole and in parts.
    #[error("`{whole}` and `{part}` are both there: a backward is either whole (`B`) or split (`I` and `W`)")]
    WholeAndSplit {
        /// The whole one.
        whole: Action,
        /// The part.
        part: Action,
    },
    /// Two actions of one micro-batch in one stage in the wrong order.
    #[error("`{action}` comes before `{needed}` on rank {rank}, which it needs")]
    Early {
        /// What comes too early.
        action: Action,
        /// What must come before.
        needed: Action,
        /// Where.
        rank: usize,
    },
    /// A recomputation that comes after what it is for.
    #[error("`{action}` comes after `{user}` on rank {rank}, which it is for")]
    LateRecompute {
        /// The recomputation.
        action: Action,
        /// What uses it.
        user: Action,
        /// Where.
        rank: usize,
    },
    /// A stage is on two ranks.
    #[error("`{action}` is on rank {rank}, and stage {} belongs to rank {owner}", action.stage)]
    Elsewhere {
        /// Which action.
        action: Action,
        /// Where it is.
        rank: usize,
        /// Where the stage's first action is, or where the stage was placed.
        owner: usize,
    },
    /// A rank has fewer stages than it should.
    #[error("rank {rank} has {stages} stages and needs {needed}: its peers would wait for what it does not do")]
    FewerStages {
        /// Which rank.
        rank: usize,
        /// How many it has.
        stages: usize,
        /// How many every rank must have.
        needed: usize,
    },
    /// Actions that wait for each other.
    #[error("these wait for each other: {0}")]
    Cycle(
        /// Each waits for the next, and the last for the first.
        Cycle,
    ),
    /// More is in flight than declared.
    #[error(
        "rank {rank} has {peak} pairs of a stage and a micro-batch in flight from `{action}` on, and {declared} are declared"
    )]
    Peak {
        /// Which rank.
        rank: usize,
        /// How many pairs of a stage and a micro-batch are in flight.
        peak: usize,
        /// How many may be.
        declared: usize,
        /// With which action it has that many for the first time.
        action: Action,
    },
    /// The declaration is for another number of ranks.
    #[error("{declared} peaks are declared for {ranks} ranks")]
    Peaks {
        /// How many are declared.
        declared: usize,
        /// How many ranks there are.
        ranks: usize,
    },
    /// A skip that leads nowhere.
    #[error(
        "the skip from stage {from} to stage {to} cannot be served: it must lead to a later one of {stages} stages"
    )]
    Unserved {
        /// Where it starts.
        from: usize,
        /// Where it ends.
        to: usize,
        /// How many stages there are.
        stages: usize,
    },
    /// More of a skip lies between its stages than declared.
    #[error(
        "up to {peak} micro-batches' values of the skip from stage {from} to stage {to} may wait, and {declared} are declared"
    )]
    Transit {
        /// Where it starts.
        from: usize,
        /// Where it ends.
        to: usize,
        /// How many may wait at once, whatever the clock says.
        peak: usize,
        /// How many it may be.
        declared: usize,
    },
    /// The messages between the ranks do not fit.
    #[error("{transport}: {fault}")]
    Message {
        /// Over which transport.
        transport: Transport,
        /// What is wrong.
        fault: MessageFault,
    },
}

/// Why an action must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Each micro-batch goes through each stage.
    Forward,
    /// What went forward must come back.
    Backward,
    /// The rest of a split backward.
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

/// Actions that wait for each other in a ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cycle(
    /// Each rank's next action, with the action of another rank that it waits for, which comes
    /// later in that rank's list.
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
    /// What was found.
    pub faults: Vec<Fault>,
    /// How many more there are of a kind that was cut off, so that a wholly wrong list does not
    /// fill the screen.
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
