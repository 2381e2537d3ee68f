use std::fmt;
use std::str::FromStr;

/// Kind of work that a stage does for one micro-batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ActionKind {
    /// Forward (`F`).
    Forward,
    /// The forward run again, with its graph, before the backward of a checkpointed micro-batch
    /// (`R`).
    Recompute,
    /// Whole backward, for the inputs and the parameters at once (`B`).
    Backward,
    /// Backward for the inputs alone (`I`). The previous stage waits for it.
    BackwardInput,
    /// Backward for the parameters alone (`W`), some time after the one for the inputs.
    BackwardWeight,
}

impl ActionKind {
    /// All kinds, in the order in which a micro-batch goes through them.
    pub const ALL: [ActionKind; 5] = [
        ActionKind::Forward,
        ActionKind::Recompute,
        ActionKind::Backward,
        ActionKind::BackwardInput,
        ActionKind::BackwardWeight,
    ];

    /// Whether it is a backward, whole or in part.
    pub const fn is_backward(self) -> bool {
        matches!(self, ActionKind::Backward | ActionKind::BackwardInput | ActionKind::BackwardWeight)
    }

    /// The letter of the kind: `F`, `R`, `B`, `I` or `W`.
    pub const fn letter(self) -> char {
        match self {
            ActionKind::Forward => 'F',
            ActionKind::Recompute => 'R',
            ActionKind::Backward => 'B',
            ActionKind::BackwardInput => 'I',
            ActionKind::BackwardWeight => 'W',
        }
    }
}

/// One entry of a rank's list: `Action::forward(1, 3)` is the forward of micro-batch 3 through
/// stage 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Action {
    /// The kind of work.
    pub kind: ActionKind,
    /// The stage, from 0.
    pub stage: usize,
    /// The micro-batch, from 0.
    pub micro_batch: usize,
}

impl Action {
    /// The action of `kind` for micro-batch `micro_batch` in `stage`.
    pub const fn new(kind: ActionKind, stage: usize, micro_batch: usize) -> Self {
        Self { kind, stage, micro_batch }
    }

    /// The forward of micro-batch `micro_batch` through `stage`.
    pub const fn forward(stage: usize, micro_batch: usize) -> Self {
        Self::new(ActionKind::Forward, stage, micro_batch)
    }

    /// The recomputation of micro-batch `micro_batch` in `stage`.
    pub const fn recompute(stage: usize, micro_batch: usize) -> Self {
        Self::new(ActionKind::Recompute, stage, micro_batch)
    }

    /// The whole backward of micro-batch `micro_batch` through `stage`.
    pub const fn backward(stage: usize, micro_batch: usize) -> Self {
        Self::new(ActionKind::Backward, stage, micro_batch)
    }

    /// The backward of micro-batch `micro_batch` through `stage`, for the inputs alone.
    pub const fn backward_input(stage: usize, micro_batch: usize) -> Self {
        Self::new(ActionKind::BackwardInput, stage, micro_batch)
    }

    /// The backward of micro-batch `micro_batch` through `stage`, for the parameters alone.
    pub const fn backward_weight(stage: usize, micro_batch: usize) -> Self {
        Self::new(ActionKind::BackwardWeight, stage, micro_batch)
    }

    /// The same action in another stage.
    pub(crate) const fn at(self, stage: usize) -> Self {
        Self { stage, ..self }
    }

    /// The actions that must be done before this one may start, where a schedule has them.
    ///
    /// A forward waits for the forward of the previous stage. A recomputation waits for its
    /// forward. A backward waits for its forward, its recomputation and the next stage's backward,
    /// whole or for the inputs. A backward for the parameters waits for the one for the inputs.
    pub(crate) fn needs(self, stages: usize) -> impl Iterator<Item = Action> + use<> {
        let Action { kind, stage, micro_batch } = self;
        let here = |kind| Some(Action::new(kind, stage, micro_batch));
        let after = (stage + 1 < stages).then(|| stage + 1);
        let needed = match kind {
            ActionKind::Forward => [stage.checked_sub(1).map(|before| self.at(before)), None, None, None],
            ActionKind::Recompute => [here(ActionKind::Forward), None, None, None],
            ActionKind::Backward | ActionKind::BackwardInput => [
                here(ActionKind::Forward),
                here(ActionKind::Recompute),
                after.map(|after| Action::backward(after, micro_batch)),
                after.map(|after| Action::backward_input(after, micro_batch)),
            ],
            ActionKind::BackwardWeight => [here(ActionKind::BackwardInput), None, None, None],
        };
        needed.into_iter().flatten()
    }
}

/// Prints as in PyTorch's schedule files: stage, kind, micro-batch (`1F3`).
impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", self.stage, self.kind.letter(), self.micro_batch)
    }
}

/// Error of parsing an [`Action`]: the text is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an action: write stage, kind (F, R, B, I or W) and micro-batch, as in `2F0`")]
#[non_exhaustive]
pub struct ParseActionError(
    /// The text.
    pub String,
);

impl FromStr for Action {
    type Err = ParseActionError;

    fn from_str(text: &str) -> Result<Self, ParseActionError> {
        let parse = || {
            let split = text.find(|c: char| !c.is_ascii_digit())?;
            let (stage, rest) = text.split_at(split);
            let letter = rest.chars().next()?;
            let kind = ActionKind::ALL.into_iter().find(|kind| kind.letter() == letter)?;
            let micro_batch = &rest[letter.len_utf8()..];
            Some(Action::new(kind, number(stage)?, number(micro_batch)?))
        };
        parse().ok_or_else(|| ParseActionError(text.to_owned()))
    }
}

/// Parses digits and nothing else: `usize::from_str` would accept a sign.
pub(crate) fn number(digits: &str) -> Option<usize> {
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_reads_as_it_prints() {
        for kind in ActionKind::ALL {
            let action = Action::new(kind, 12, 305);
            assert_eq!(action.to_string().parse(), Ok(action));
        }
    }

    #[test]
    fn what_is_not_an_action_is_named() {
        for text in ["", "F0", "2F", "2X0", "2F0 ", "2F-1", "+2F1", "2F+1", "2f0", "2é0", "99999999999999999999F0"] {
            assert_eq!(text.parse::<Action>(), Err(ParseActionError(text.to_owned())));
        }
    }
}
