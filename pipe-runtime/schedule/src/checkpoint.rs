use std::fmt;
use std::str::FromStr;

/// Which micro-batches are checkpointed. The activations of a checkpointed micro-batch are dropped
/// after its forward, and its forward is run again right before its backward (unless the backward
/// comes right after the forward). Only micro-batches that exist are counted, which may be fewer
/// than `chunks`. In evaluation mode, and where no gradient is asked for, none is checkpointed.
///
/// ```
/// use pipe_schedule::Checkpoint;
///
/// let all_but_the_last = Checkpoint::ExceptLast;
/// assert!(all_but_the_last.applies(2, 4) && !all_but_the_last.applies(3, 4));
/// assert_eq!("always".parse(), Ok(Checkpoint::Always));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Checkpoint {
    /// No micro-batch.
    Never,
    /// All but the last micro-batch. Its backward comes right after its forward, so checkpointing
    /// it would gain nothing.
    #[default]
    ExceptLast,
    /// Every micro-batch.
    Always,
}

impl Checkpoint {
    /// All modes, from the fastest to the one that needs the least memory.
    pub const ALL: [Self; 3] = [Self::Never, Self::ExceptLast, Self::Always];

    /// Whether micro-batch `index` of `count` is checkpointed.
    pub const fn applies(self, index: usize, count: usize) -> bool {
        match self {
            Self::Never => false,
            Self::ExceptLast => index + 1 < count,
            Self::Always => true,
        }
    }

    /// The name, as in settings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::ExceptLast => "except_last",
            Self::Always => "always",
        }
    }
}

/// Prints the name, as in settings: `never`, `except_last`, `always`.
impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The error of parsing a [`Checkpoint`]: no mode has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("checkpoint is not one of 'always', 'except_last', or 'never': '{name}'")]
#[non_exhaustive]
pub struct UnknownCheckpointError {
    /// The name that was parsed.
    pub name: String,
}

impl FromStr for Checkpoint {
    type Err = UnknownCheckpointError;

    fn from_str(name: &str) -> Result<Self, UnknownCheckpointError> {
        let found = Self::ALL.into_iter().find(|mode| mode.name() == name);
        found.ok_or_else(|| UnknownCheckpointError { name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn except_last_spares_the_last_micro_batch_that_exists() {
        let checkpointed = |mode: Checkpoint, count| (0..count).filter(|&i| mode.applies(i, count)).count();
        assert_eq!(checkpointed(Checkpoint::ExceptLast, 3), 2);
        assert_eq!(checkpointed(Checkpoint::ExceptLast, 1), 0);
        assert_eq!(checkpointed(Checkpoint::Always, 3), 3);
        assert_eq!(checkpointed(Checkpoint::Never, 3), 0);
    }

    #[test]
    fn an_unknown_mode_is_named() {
        let error = "sometimes".parse::<Checkpoint>().unwrap_err().to_string();
        assert_eq!(error, "checkpoint is not one of 'always', 'except_last', or 'never': 'sometimes'");
        for mode in Checkpoint::ALL {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
    }
}
