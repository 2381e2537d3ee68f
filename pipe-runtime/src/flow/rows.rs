//! Finds the parts of a value that are split by rows, and checks them against the rows of the
//! batch.

use std::fmt;

use tch::Tensor;

use super::packed::{PackedValue, Split, Value};
use crate::error::{Error, Result};

/// Rejects lists that are in no wrapper. Whether such a list is to be split or replicated is
/// unknown, and a wrong guess would silently yield wrong results.
pub(super) fn refuse_bare_lists(value: &PackedValue, what: &str) -> Result<()> {
    let bare = value.plain.iter().find_map(|rest| match rest.value {
        Value::List(length) => Some(length),
        Value::Length(_) | Value::Rows(_) | Value::Plain(..) => None,
    });
    let Some(length) = bare else { return Ok(()) };
    Err(Error::Input(format!(
        "a list in the {what}, of length {length}, does not say how it belongs to the rows of the batch. Wrap it in \
         `Rows` if it has one entry per row, in `Each` if each part has the batch's rows and is to be split like them, \
         in `Replicate` if every micro-batch is to get all of it; or give an array or a tuple, whose parts are split \
         each by itself"
    )))
}

/// A part of a value that is split over the micro-batches.
pub(super) enum Part<'p> {
    Tensor { position: usize, tensor: &'p Tensor, dim: usize, per_row: usize },
    List { length: usize },
}

impl<'p> Part<'p> {
    /// Collects all parts, tensors first, so that the part that the others are compared with is
    /// preferably a tensor.
    pub(super) fn all(value: &'p PackedValue) -> Vec<Self> {
        // The tensors inside a list of rows are not counted in the tensors' numbers.
        let counted = value.tensors.iter().filter(|item| !matches!(item.split, Split::Row(_)));
        let tensors = counted.enumerate().filter_map(|(position, item)| match item.split {
            Split::Along { dim, per_row } => Some(Self::Tensor { position, tensor: &item.tensor, dim, per_row }),
            Split::Whole | Split::Row(_) => None,
        });
        let lists = value.plain.iter().filter_map(|rest| match rest.value {
            Value::Rows(length) => Some(Self::List { length }),
            Value::Length(_) | Value::List(_) | Value::Plain(..) => None,
        });
        tensors.chain(lists).collect()
    }

    /// The number of consecutive indices or entries that belong to one row of the batch.
    pub(super) fn per_row(&self) -> i64 {
        match self {
            Self::Tensor { per_row, .. } => *per_row as i64,
            Self::List { .. } => 1,
        }
    }

    /// The number of indices along the split dimension, or of entries.
    pub(super) fn length(&self) -> Result<i64> {
        let (tensor, dim) = match self {
            Self::Tensor { tensor, dim, .. } => (tensor, *dim),
            Self::List { length } => return Ok(*length as i64),
        };
        let size = tensor.size();
        size.get(dim).copied().ok_or_else(|| {
            Error::Input(match size.len() {
                0 => "a zero-dimensional tensor cannot be split into micro-batches: wrap it in `Replicate` to hand it \
                      to each of them"
                    .into(),
                _ => {
                    format!("a tensor of shape {size:?} cannot be split along dimension {dim}, which it does not have")
                }
            })
        })
    }

    /// The number of rows of the batch, derived from this part.
    pub(super) fn rows(&self) -> Result<i64> {
        let (length, per_row) = (self.length()?, self.per_row());
        if length % per_row != 0 {
            return Err(Error::Input(format!("{self} has {}, which is not a multiple of {per_row}", in_rows(length))));
        }
        Ok(length / per_row)
    }

    /// Checks that this part has `rows` rows. `known` begins the error message: it says where the
    /// expected number of rows comes from.
    pub(super) fn check(&self, rows: i64, known: impl FnOnce() -> String) -> Result<()> {
        let (length, wanted) = (self.length()?, rows.saturating_mul(self.per_row()));
        if length == wanted {
            return Ok(());
        }
        let (mut dim, mut per_row) = ("DIM".to_owned(), "K".to_owned());
        if let Self::Tensor { tensor, .. } = self {
            let found = tensor.size().iter().position(|&size| size == rows);
            dim = found.map_or(dim, |found| found.to_string());
            let is_multiple = rows > 0 && length > rows && length % rows == 0;
            per_row = if is_multiple { (length / rows).to_string() } else { per_row };
        }
        Err(Error::Input(format!(
            "{}, and {self} has {} instead of {wanted}. Wrap what goes whole to every micro-batch in `Replicate`, \
             a tensor whose batch dimension is not 0 in `Along::<{dim}>`, one with several rows for each row of the \
             batch in `PerRow::<{per_row}>`, a list with one entry per row in `Rows`",
            known(),
            in_rows(length)
        )))
    }
}

impl fmt::Display for Part<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tensor { position, tensor, dim, per_row } => {
                write!(f, "tensor {position}, of shape {:?} and split along dimension {dim}", tensor.size())?;
                match per_row {
                    1 => f.write_str(","),
                    _ => write!(f, " by {per_row} for each row of the batch,"),
                }
            }
            Self::List { .. } => f.write_str("a list in `Rows`, split by its entries,"),
        }
    }
}

pub(super) fn in_rows(length: i64) -> String {
    format!("{length} row{}", if length == 1 { "" } else { "s" })
}
