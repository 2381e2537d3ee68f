//! One cell of a schedule's text: an action, or another entry that PyTorch writes.

use std::str::FromStr;

use crate::list::action::number;
use crate::list::{Action, ActionKind, ParseActionError};

/// The entries of PyTorch's lists that are not actions, and whether each belongs to one
/// micro-batch. Those with `WAIT_` are newer than torch 2.11.
const COMMUNICATION: [(&str, bool); 10] = [
    ("SEND_F", true),
    ("RECV_F", true),
    ("SEND_B", true),
    ("RECV_B", true),
    ("WAIT_SEND_F", true),
    ("WAIT_SEND_B", true),
    ("UNSHARD", false),
    ("RESHARD", false),
    ("REDUCE_GRAD", false),
    ("WAIT_REDUCE_GRAD", false),
];

const OVERLAP: &str = "OVERLAP_F_B";

/// Contents of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    /// No entry: the rank waits.
    Empty,
    Action(Action),
    /// A forward overlapped with a backward. PyTorch runs them in this order by default.
    Overlap([Action; 2]),
    /// Communication of a stage, or of one micro-batch in it.
    Communication {
        stage: usize,
        micro_batch: Option<usize>,
    },
}

/// What is wrong with a cell's text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CellFault {
    /// The text is not an action.
    #[error(transparent)]
    ParseActionError(#[from] ParseActionError),
    /// The text has an unknown word.
    #[error("`{word}` in `{text}` is neither a kind of action (F, R, B, I or W) nor communication ({})", words())]
    UnknownWord {
        /// The text.
        text: String,
        /// The unknown word.
        word: String,
    },
    /// The text names communication, but not in PyTorch's form.
    #[error("`{text}` is not communication: write it as in `{example}`")]
    NotCommunication {
        /// The text.
        text: String,
        /// An example of the right form.
        example: String,
    },
    /// The text looks like an overlap, but is not one of a forward and a backward.
    #[error("`{0}` is not an overlap: write a forward and a backward, as in `(0F7;7B3){OVERLAP}`")]
    NotAnOverlap(
        /// The text.
        String,
    ),
}

fn words() -> String {
    COMMUNICATION.map(|(word, _)| word).join(", ")
}

impl FromStr for Cell {
    type Err = CellFault;

    fn from_str(text: &str) -> Result<Self, CellFault> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(Cell::Empty);
        }
        if text.starts_with('(') || text.ends_with(OVERLAP) {
            return overlap(text).map(Cell::Overlap).ok_or_else(|| CellFault::NotAnOverlap(text.to_owned()));
        }
        let rest = text.trim_start_matches(|c: char| c.is_ascii_digit());
        let word = &rest[..rest.find(|c: char| !c.is_ascii_alphabetic() && c != '_').unwrap_or(rest.len())];
        if word.len() <= 1 {
            return Ok(Cell::Action(text.parse()?));
        }
        let Some((_, of_micro_batch)) = COMMUNICATION.into_iter().find(|&(known, _)| known == word) else {
            return Err(CellFault::UnknownWord { text: text.to_owned(), word: word.to_owned() });
        };
        let (stage, micro_batch) = (&text[..text.len() - rest.len()], &rest[word.len()..]);
        communication(stage, micro_batch, of_micro_batch).ok_or_else(|| {
            let example = format!("2{word}{}", if of_micro_batch { "0" } else { "" });
            CellFault::NotCommunication { text: text.to_owned(), example }
        })
    }
}

fn communication(stage: &str, micro_batch: &str, of_micro_batch: bool) -> Option<Cell> {
    let stage = number(stage)?;
    let micro_batch = match of_micro_batch {
        true => Some(number(micro_batch)?),
        false if micro_batch.is_empty() => None,
        false => return None,
    };
    Some(Cell::Communication { stage, micro_batch })
}

/// Parses `(0F7;7B3)OVERLAP_F_B`, with exactly these two parts.
fn overlap(text: &str) -> Option<[Action; 2]> {
    let (forward, backward) = text.strip_suffix(OVERLAP)?.strip_prefix('(')?.strip_suffix(')')?.split_once(';')?;
    let [forward, backward]: [Action; 2] = [forward.trim().parse().ok()?, backward.trim().parse().ok()?];
    let is_backward =
        matches!(backward.kind, ActionKind::Backward | ActionKind::BackwardInput | ActionKind::BackwardWeight);
    (forward.kind == ActionKind::Forward && is_backward).then_some([forward, backward])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        match text.parse::<Cell>() {
            Err(fault) => fault.to_string(),
            Ok(cell) => panic!("`{text}` is read as {cell:?}"),
        }
    }

    #[test]
    fn actions_and_empty_cells() {
        assert_eq!(" 12I305 ".parse(), Ok(Cell::Action(Action::backward_input(12, 305))));
        for text in ["", " ", "\t"] {
            assert_eq!(text.parse(), Ok(Cell::Empty));
        }
    }

    #[test]
    fn communication_has_the_numbers_that_it_has_in_pytorch() {
        for (word, of_micro_batch) in COMMUNICATION {
            let [of_stage, of_both] = [format!("12{word}"), format!("12{word}305")];
            let (right, wrong) = if of_micro_batch { (of_both, of_stage) } else { (of_stage, of_both) };
            let micro_batch = of_micro_batch.then_some(305);
            assert_eq!(right.parse(), Ok(Cell::Communication { stage: 12, micro_batch }), "{right}");
            assert!(error(&wrong).starts_with(&format!("`{wrong}` is not communication: write it as in `2{word}")));
        }
        assert_eq!(error("0SEND_F"), "`0SEND_F` is not communication: write it as in `2SEND_F0`");
        assert_eq!(error("0UNSHARD3"), "`0UNSHARD3` is not communication: write it as in `2UNSHARD`");
    }

    #[test]
    fn what_is_almost_communication_is_none() {
        let long = "99999999999999999999";
        let [stage, micro_batch] = [format!("{long}SEND_F0"), format!("0RECV_B{long}")];
        let texts =
            ["SEND_F0", "UNSHARD", "0SEND_F1x", "0SEND_F-1", "0SEND_F+1", "0SEND_F 1", "0SEND_F1.0", "0SEND_F1;"];
        for text in texts.into_iter().chain([&*stage, &micro_batch]) {
            assert!(error(text).starts_with(&format!("`{text}` is not communication")), "{}", error(text));
        }
    }

    #[test]
    fn an_unknown_word_is_named_beside_the_known_ones() {
        assert_eq!(
            error("3SEND_X1"),
            "`SEND_X` in `3SEND_X1` is neither a kind of action (F, R, B, I or W) nor communication (SEND_F, RECV_F, \
             SEND_B, RECV_B, WAIT_SEND_F, WAIT_SEND_B, UNSHARD, RESHARD, REDUCE_GRAD, WAIT_REDUCE_GRAD)"
        );
        // PyTorch's long names of its actions, which it never writes to files, and words that
        // resemble known ones.
        let words =
            ["FORWARD", "FULL_BACKWARD", "BACKWARD_INPUT", "send_f", "SEND_FF", "WAIT", "XSEND_F", "SEND_F_", "FF"];
        for word in words {
            for text in [format!("0{word}1"), format!("0{word}"), word.to_owned()] {
                assert!(error(&text).starts_with(&format!("`{word}` in `{text}` is neither")), "{}", error(&text));
            }
        }
    }

    #[test]
    fn text_before_or_after_an_action_is_an_error() {
        for text in ["0F0SEND_F1", "0F0 SEND_F1", "0F0;1F0", "0F0x", "x0F0", "\"0F0\"", "0 F0", "0F", "F0", "7", "-1F0"]
        {
            assert!(text.parse::<Cell>().is_err(), "{text}");
        }
        assert!(error("0F0SEND_F1").starts_with("`0F0SEND_F1` is not an action"));
    }

    #[test]
    fn an_overlap_is_its_two_actions() {
        for (letter, kind) in
            [("B", ActionKind::Backward), ("I", ActionKind::BackwardInput), ("W", ActionKind::BackwardWeight)]
        {
            let both = [Action::forward(0, 7), Action::new(kind, 7, 3)];
            for text in [format!("(0F7;7{letter}3)OVERLAP_F_B"), format!(" ( 0F7 ; 7{letter}3 )OVERLAP_F_B ")] {
                assert_eq!(text.parse(), Ok(Cell::Overlap(both)), "{text}");
            }
        }
    }

    #[test]
    fn what_is_almost_an_overlap_is_none() {
        let texts = [
            "()OVERLAP_F_B",
            "(;)OVERLAP_F_B",
            "(0F7)OVERLAP_F_B",
            "(0F7;)OVERLAP_F_B",
            "(;7B3)OVERLAP_F_B",
            "(0F7;7B3;0F8)OVERLAP_F_B",
            "(0F7;7B3;)OVERLAP_F_B",
            "((0F7;7B3)OVERLAP_F_B;7B4)OVERLAP_F_B",
            "(0F7;(0F8;7B3)OVERLAP_F_B)OVERLAP_F_B",
            "((0F7;7B3))OVERLAP_F_B",
            "(7B3;0F7)OVERLAP_F_B",
            "(0F7;7F3)OVERLAP_F_B",
            "(0F7;7R3)OVERLAP_F_B",
            "(0F7;7X3)OVERLAP_F_B",
            "(0F7;7SEND_B3)OVERLAP_F_B",
            "(0F7;7B3)",
            "(0F7;7B3) OVERLAP_F_B",
            "(0F7;7B3)OVERLAP_F_B0",
            "(0F7;7B3)OVERLAP_B_F",
            "(0F7;7B3)OVERLAP_F_BOVERLAP_F_B",
            "1(0F7;7B3)OVERLAP_F_B",
            "0F7;7B3)OVERLAP_F_B",
            "(0F7;7B3OVERLAP_F_B",
            "0OVERLAP_F_B",
            "OVERLAP_F_B",
            "(",
        ];
        for text in texts {
            assert_eq!(
                error(text),
                format!("`{text}` is not an overlap: write a forward and a backward, as in `(0F7;7B3)OVERLAP_F_B`")
            );
        }
    }
}
