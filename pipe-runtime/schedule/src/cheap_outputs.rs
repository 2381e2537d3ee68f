use std::fmt;
use std::str::FromStr;

/// What a stage does with the outputs of operators that take little time, where the backward needs
/// them. Such an output can be recomputed if it can be made from tensors that the graph keeps
/// anyway: the output of a `gelu` from its input, that of a `relu` after a batch norm from the
/// input of the norm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CheapOutputs {
    /// Keeps them, as autograd does.
    #[default]
    Keep,
    /// Recomputes those of pointwise operators: activations, sums, products, casts, copies. A
    /// transformer keeps about three quarters of its memory, a convolution with norm and activation
    /// two thirds.
    RecomputePointwise,
    /// Recomputes those of norms, concatenations, poolings and upsamplings too. A transformer keeps
    /// less than two thirds of its memory, a convolution with norm and activation a third. On a
    /// CPU, a batch norm takes about as long as a small convolution.
    RecomputeAll,
}

impl CheapOutputs {
    /// All, from the one that keeps most.
    pub const ALL: [Self; 3] = [Self::Keep, Self::RecomputePointwise, Self::RecomputeAll];

    /// The name, as in settings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::RecomputePointwise => "recompute_pointwise",
            Self::RecomputeAll => "recompute_all",
        }
    }
}

/// Prints the name, as in settings: `keep`, `recompute_pointwise`, `recompute_all`.
impl fmt::Display for CheapOutputs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The error of parsing [`CheapOutputs`]: nothing has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cheap_outputs is not one of 'keep', 'recompute_pointwise', or 'recompute_all': '{name}'")]
#[non_exhaustive]
pub struct UnknownCheapOutputsError {
    /// The name that was parsed.
    pub name: String,
}

impl FromStr for CheapOutputs {
    type Err = UnknownCheapOutputsError;

    fn from_str(name: &str) -> Result<Self, UnknownCheapOutputsError> {
        let found = Self::ALL.into_iter().find(|outputs| outputs.name() == name);
        found.ok_or_else(|| UnknownCheapOutputsError { name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_printed() {
        for outputs in CheapOutputs::ALL {
            assert_eq!(outputs.to_string().parse(), Ok(outputs));
        }
        let unknown = "all".parse::<CheapOutputs>().unwrap_err();
        assert!(unknown.to_string().ends_with("'all'"));
    }
}
