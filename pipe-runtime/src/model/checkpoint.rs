use std::fmt;
use std::str::FromStr;

use crate::error::Error;

/// Which micro-batches are checkpointed: their activations are dropped after the forward, which
/// is run again when their backward is due (unless it comes right after). Counted on the
/// micro-batches that exist, which may be fewer than `chunks`. In evaluation mode, or where no
/// gradient is asked for, none is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Checkpoint {
    /// All.
    Always,
    /// All but the last, whose backward comes right after its forward and would gain nothing.
    #[default]
    ExceptLast,
    /// None.
    Never,
}

impl Checkpoint {
    /// Whether micro-batch `index` of `count` is checkpointed.
    pub fn applies(self, index: usize, count: usize) -> bool {
        match self {
            Self::Always => true,
            Self::ExceptLast => index + 1 < count,
            Self::Never => false,
        }
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Always => "always",
            Self::ExceptLast => "except_last",
            Self::Never => "never",
        })
    }
}

impl FromStr for Checkpoint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "always" => Ok(Self::Always),
            "except_last" => Ok(Self::ExceptLast),
            "never" => Ok(Self::Never),
            other => {
                Err(Error::Setting(format!("checkpoint is not one of 'always', 'except_last', or 'never': '{other}'")))
            }
        }
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
        for mode in [Checkpoint::Always, Checkpoint::ExceptLast, Checkpoint::Never] {
            assert_eq!(mode.to_string().parse::<Checkpoint>().unwrap(), mode);
        }
    }
}
