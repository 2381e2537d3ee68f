use std::fmt::Write;
use std::str::FromStr;

use crate::{Action, NotAnAction, Schedule};

/// A cell of the text is not an action.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("row {row}, column {column}: {source}")]
pub struct BadCell {
    /// The row, from 1: the rank's number plus one.
    pub row: usize,
    /// The cell in its row, from 1.
    pub column: usize,
    /// What is wrong with its text.
    pub source: NotAnAction,
}

impl Schedule {
    /// The lists as PyTorch's schedule files have them (`torch.distributed.pipelining`, `_dump_csv`): one row per rank, one action per
    /// cell, as `2F0`. It is read back by `str::parse`.
    pub fn to_csv(&self) -> String {
        let mut text = String::new();
        for list in &self.ranks {
            for (number, action) in list.iter().enumerate() {
                let _ = write!(text, "{}{action}", if number > 0 { "," } else { "" });
            }
            text.push('\n');
        }
        text
    }
}

/// Reads what [`Schedule::to_csv`] and PyTorch write. Cells may be empty, as PyTorch's are where a rank waits; the numbers of stages and
/// micro-batches are those that occur.
impl FromStr for Schedule {
    type Err = BadCell;

    fn from_str(text: &str) -> Result<Self, BadCell> {
        let cell = |row: usize, column: usize, text: &str| match text.trim() {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|source| BadCell { row: row + 1, column: column + 1, source }),
        };
        let row = |(row, line): (usize, &str)| {
            let cells = line.split(',').enumerate().map(|(column, text)| cell(row, column, text));
            cells.filter_map(Result::transpose).collect::<Result<Vec<Action>, BadCell>>()
        };
        let ranks = text.lines().enumerate().map(row).collect::<Result<Vec<_>, _>>()?;
        let count = |number: fn(&Action) -> usize| {
            ranks.iter().flatten().map(number).max().map_or(0, |last| last.saturating_add(1))
        };
        Ok(Self { stages: count(|action| action.stage), micro_batches: count(|action| action.micro_batch), ranks })
    }
}
