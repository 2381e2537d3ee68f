//! Reads and writes the lists as text, in the format of PyTorch's schedule files.

mod cell;

pub use cell::CellFault;

use std::fmt::Write;
use std::str::FromStr;

use cell::Cell;

use crate::list::Schedule;

/// Error of parsing a [`Schedule`]: a cell is not valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("row {row}, column {column}: {source}")]
#[non_exhaustive]
pub struct CellError {
    /// The row, from 1. It is the rank's number plus one.
    pub row: usize,
    /// The column, from 1.
    pub column: usize,
    /// What is wrong with the cell's text.
    pub source: CellFault,
}

impl Schedule {
    /// Writes the lists in the format of PyTorch's schedule files (`torch.distributed.pipelining`,
    /// `_dump_csv` with `compute_only`): one row per rank, one action per cell, such as `2F0`.
    /// `str::parse` reads the text back.
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

/// Reads the text that [`Schedule::to_csv`] writes, and the files that PyTorch's `_dump_csv`
/// writes, by default or with `compute_only`. The tests read the files of torch 2.11 and 2.15, for
/// each of their schedules.
///
/// * Cells may be empty. PyTorch leaves a cell empty where a rank waits.
/// * Communication is checked and dropped, because [`Schedule::lower`] works out what is sent and
///   when. The entries are `SEND_F`, `RECV_F`, `SEND_B`, `RECV_B`, `WAIT_SEND_F` and `WAIT_SEND_B`
///   of a micro-batch, and `UNSHARD`, `RESHARD`, `REDUCE_GRAD` and `WAIT_REDUCE_GRAD` of a stage.
/// * An overlap, `(0F7;7B3)OVERLAP_F_B`, becomes its two actions, one after the other.
///
/// The numbers of stages and micro-batches are taken from all cells, including the dropped ones. If
/// a file sends something that it does not compute, [`Schedule::validate`] reports it as missing.
impl FromStr for Schedule {
    type Err = CellError;

    fn from_str(text: &str) -> Result<Self, CellError> {
        let (mut ranks, mut stages, mut micro_batches) = (Vec::new(), 0, 0);
        for (row, line) in text.lines().enumerate() {
            let mut list = Vec::new();
            for (column, text) in line.split(',').enumerate() {
                let cell = text.parse().map_err(|source| CellError { row: row + 1, column: column + 1, source })?;
                match cell {
                    Cell::Empty => {}
                    Cell::Action(action) => list.push(action),
                    Cell::Overlap(both) => list.extend(both),
                    Cell::Communication { stage, micro_batch } => {
                        stages = stages.max(stage.saturating_add(1));
                        micro_batches = micro_batches.max(micro_batch.map_or(0, |last| last.saturating_add(1)));
                    }
                }
            }
            ranks.push(list);
        }
        let of_lists = Self::of_lists(ranks);
        Ok(Self {
            stages: of_lists.stages.max(stages),
            micro_batches: of_lists.micro_batches.max(micro_batches),
            ..of_lists
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::Limits;

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
    fn communication_is_dropped_and_overlaps_are_split() {
        let text =
            "0UNSHARD,0F0,0SEND_F0,1RECV_F0,(0F1;1B0)OVERLAP_F_B,0REDUCE_GRAD,,0WAIT_SEND_F1\r\n\r\n1RESHARD\r\n";
        let schedule: Schedule = text.parse().unwrap();
        assert_eq!(schedule.to_csv(), "0F0,0F1,1B0\n\n\n");
    }

    #[test]
    fn what_is_only_sent_counts_and_so_is_missed() {
        let schedule: Schedule = "0F0,0B0,3RECV_B1\n7UNSHARD".parse().unwrap();
        assert_eq!((schedule.stages, schedule.micro_batches), (8, 2));
        let faults = schedule.validate(&Limits::default()).unwrap_err().to_string();
        assert!(faults.contains("`3F1` is missing"), "{faults}");
        let last = usize::MAX;
        let schedule: Schedule = format!("0F0,{last}SEND_F{last}").parse().unwrap();
        assert_eq!((schedule.stages, schedule.micro_batches), (last, last));
    }

    #[test]
    fn a_bad_cell_among_pytorchs_is_named_too() {
        let error = "0F0,0SEND_F0\n1RECV_F0,1F0,(1B0)OVERLAP_F_B".parse::<Schedule>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "row 2, column 3: `(1B0)OVERLAP_F_B` is not an overlap: write a forward and a backward, as in \
             `(0F7;7B3)OVERLAP_F_B`"
        );
    }

    #[test]
    fn an_empty_text_is_an_empty_schedule() {
        assert_eq!("".parse(), Ok(Schedule { stages: 0, micro_batches: 0, ranks: vec![] }));
    }
}
