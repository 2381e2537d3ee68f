use std::fmt;
use std::str::FromStr;

/// The kind of an action on one micro-batch in one stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ActionKind {
    /// Forward (`F`).
    Forward,
    /// The forward again, which records the graph, before the backward of a checkpointed
    /// micro-batch (`R`).
    Recompute,
    /// Whole backward, for the inputs and the parameters at once (`B`).
    Backward,
    /// Backward for the inputs only (`I`), which the stage before waits for.
    BackwardInput,
    /// Backward for the parameters (`W`), after the one for the inputs.
    BackwardWeight,
}

impl ActionKind {
    /// All kinds, in the order in which they happen to a micro-batch.
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

/// One entry of a rank's list: `Action::forward(1, 3)` is the forward of micro-batch 3 in stage 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Action {
    /// The kind.
    pub kind: ActionKind,
    /// The stage, from 0.
    pub stage: usize,
    /// The micro-batch, from 0.
    pub micro_batch: usize,
}

impl Action {
    /// Makes an action of kind `kind` on `micro_batch` in `stage`.
    pub const fn new(kind: ActionKind, stage: usize, micro_batch: usize) -> Self {
        Self { kind, stage, micro_batch }
    }

    /// The forward of `micro_batch` in `stage`.
    pub const fn forward(stage: usize, micro_batch: usize) -> Self {
        Self::new(ActionKind::Forward, stage, micro_batch)
    }

    /// The recomputation of `micro_batch` in `stage`.
    pub const fn recompute(stage: usize, micro_batch: usize) -> Self {
        Self::new(ActionKind::Recompute, stage, micro_batch)
    }

    /// The whole backward of `micro_batch` in `stage`.
    pub const fn backward(stage: usize, micro_batch: usize) -> Self {
        Self::new(ActionKind::Backward, stage, micro_batch)
    }

    /// The backward for the inputs of `micro_batch` in `stage`.
    pub const fn backward_input(stage: usize, micro_batch: usize) -> Self {
        Self::new(ActionKind::BackwardInput, stage, micro_batch)
    }

    /// The backward for the parameters of `micro_batch` in `stage`.
    pub const fn backward_weight(stage: usize, micro_batch: usize) -> Self {
        Self::new(ActionKind::BackwardWeight, stage, micro_batch)
    }

    /// The action of the same kind on the same micro-batch in another stage.
    pub(crate) const fn at(self, stage: usize) -> Self {
        Self { stage, ..self }
    }

    /// The actions that must end before this one may start, of those that a schedule has.
    ///
    /// A forward waits for the forward of the stage before. A recomputation waits for its own
    /// forward. A backward waits for its own forward, its own recomputation, and the next stage's
    /// backward, whole or for the inputs. A backward for the parameters waits for its own backward
    /// for the inputs.
    pub(crate) fn needs(self, stages: usize) -> impl Iterator<Item = Action> + use<> {
        let Action { kind, stage, micro_batch } = self;
        let here = |kind| Some(Action::new(kind, stage, micro_batch));
        let after = stage.checked_add(1).filter(|&after| after < stages);
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

/// The error of parsing an [`Action`]: the text is not one.
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

/// Only digits are accepted; `usize::from_str` would accept a sign.
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
