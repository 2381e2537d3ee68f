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
        Ok(Self::of_lists(ranks))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pytorch_writes_is_read() {
        let schedule: Schedule = "0F0,0F1,,,0B0,,0B1\r\n,1F0,1B0,1F1, 1B1 ,\n".parse().unwrap();
        assert_eq!(schedule.to_csv(), "0F0,0F1,0B0,0B1\n1F0,1B0,1F1,1B1\n");
        assert_eq!((schedule.stages, schedule.micro_batches), (2, 2));
    }

    #[test]
    fn a_bad_cell_is_named_with_its_place_and_text() {
        let error = "0F0,0B0\n1F0,,1X0".parse::<Schedule>().unwrap_err();
        assert_eq!((error.row, error.column), (2, 3));
        assert_eq!(
            error.to_string(),
            "row 2, column 3: `1X0` is not an action: write stage, kind (F, R, B, I or W) and micro-batch, as in `2F0`"
        );
    }

    #[test]
    fn an_empty_text_is_an_empty_schedule() {
        assert_eq!("".parse(), Ok(Schedule { stages: 0, micro_batches: 0, ranks: vec![] }));
    }
}
