//! The layers of a stage, in pieces.
//!
//! A stage has one piece for each annotated stage that was merged into it. `#[recompute]` divides
//! it further: what is marked is a piece, and each of its elements if it is repeated. The pieces
//! run in order, and hand their values on within the stage.

use std::any::Any;
use std::ops::Range;

use super::ports::Io;
use crate::model::Context;

/// A piece of a stage: the layers it owns and how it runs them.
pub(crate) trait Piece: Send {
    /// The number of elements, of which each can be recomputed alone.
    fn elements(&self) -> usize {
        1
    }

    /// The number of the first element among all of its field, which may have other pieces.
    fn first(&self) -> usize {
        0
    }

    /// Runs one of the elements.
    fn run(&self, element: usize, io: &mut Io<'_>, cx: &Context);

    /// Adds the layers.
    fn into_layers(self: Box<Self>, layers: &mut Vec<Box<dyn Any + Send>>);
}

/// A piece, and whether the backward recomputes each of its elements.
pub(super) type MarkedPiece = (Box<dyn Piece>, Vec<bool>);

/// The layers of a stage.
pub(crate) struct StageBody {
    pieces: Vec<Box<dyn Piece>>,
    /// The elements of all pieces, in order: the piece, the number in it, and whether the backward
    /// recomputes it.
    elements: Vec<(usize, usize, bool)>,
}

/// Consecutive elements of a stage whose operators are in one autograd graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) elements: Range<usize>,
    /// Whether the graph is dropped after the forward, and made again in the backward. Such a
    /// segment has one element.
    pub(crate) recomputed: bool,
}

impl StageBody {
    /// Makes a stage of pieces.
    pub(super) fn new(pieces: Vec<MarkedPiece>) -> Self {
        let elements = pieces.iter().enumerate().flat_map(|(number, (_, recomputed))| {
            recomputed.iter().enumerate().map(move |(element, recomputed)| (number, element, *recomputed))
        });
        let elements = elements.collect();
        Self { pieces: pieces.into_iter().map(|(piece, _)| piece).collect(), elements }
    }

    /// Whether a part of the stage is recomputed.
    pub(crate) fn recomputes(&self) -> bool {
        self.elements.iter().any(|(_, _, recomputed)| *recomputed)
    }

    /// All elements, in one segment that is kept.
    pub(crate) fn whole(&self) -> Segment {
        Segment { elements: 0..self.elements.len(), recomputed: false }
    }

    /// The segments, in order.
    pub(crate) fn segments(&self) -> Vec<Segment> {
        let mut segments: Vec<Segment> = Vec::new();
        for (number, &(_, _, recomputed)) in self.elements.iter().enumerate() {
            match segments.last_mut() {
                Some(last) if !last.recomputed && !recomputed => last.elements.end = number + 1,
                _ => segments.push(Segment { elements: number..number + 1, recomputed }),
            }
        }
        segments
    }

    /// Runs a segment.
    pub(crate) fn run(&self, segment: &Segment, io: &mut Io<'_>, cx: &Context) {
        for &(piece, element, _) in &self.elements[segment.elements.clone()] {
            self.pieces[piece].run(element, io, cx);
        }
    }

    /// Adds the layers of each piece.
    pub(super) fn into_layers(self, layers: &mut Vec<Box<dyn Any + Send>>) {
        self.pieces.into_iter().for_each(|piece| piece.into_layers(layers));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing(usize);

    impl Piece for Nothing {
        fn elements(&self) -> usize {
            self.0
        }

        fn run(&self, _: usize, _: &mut Io<'_>, _: &Context) {}

        fn into_layers(self: Box<Self>, _: &mut Vec<Box<dyn Any + Send>>) {}
    }

    #[test]
    fn what_is_recomputed_is_a_segment_of_its_own() {
        let segments = |pieces: &[&[bool]]| {
            let piece =
                |recomputed: &&[bool]| -> MarkedPiece { (Box::new(Nothing(recomputed.len())), recomputed.to_vec()) };
            let segments = StageBody::new(pieces.iter().map(piece).collect()).segments().into_iter();
            segments.map(|segment| (segment.elements, segment.recomputed)).collect::<Vec<_>>()
        };
        let (kept, again) = (&[false][..], &[true][..]);
        assert_eq!(segments(&[kept, kept]), [(0..2, false)]);
        assert_eq!(segments(&[kept, again, kept]), [(0..1, false), (1..2, true), (2..3, false)]);
        let first = &[true, true, false, false][..];
        assert_eq!(segments(&[first, kept]), [(0..1, true), (1..2, true), (2..5, false)]);
        assert_eq!(segments(&[&[false, true, false]]), [(0..1, false), (1..2, true), (2..3, false)]);
        assert_eq!(segments(&[&[true, true]]), [(0..1, true), (1..2, true)]);
    }
}
