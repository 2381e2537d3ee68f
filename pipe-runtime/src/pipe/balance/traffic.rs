//! What would cross a cut, derived from which layer reads what another layer has made.
//!
//! Types would not tell: a layer's output need not be a [`Flow`](crate::Flow), because it may never
//! leave its stage. Memory does tell, whatever value it is part of: an operator of a later layer
//! that reads what an earlier one allocated needs it on its own device.

use std::collections::BTreeMap;

use crate::model::SkipPlan;
use crate::torch::Read;

/// A top-level layer. Layers are listed in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LayerKey {
    pub(super) name: &'static str,
    /// The number of the element, if the layer is repeated.
    pub(super) index: Option<usize>,
}

/// Bytes that would cross a cut: values on the way forward, and gradients on the way back for those
/// that carry one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Traffic {
    /// After each layer but the last, for values that go from layer to layer.
    pub(super) boundaries: Vec<u64>,
    /// For each skip that was seen.
    pub(super) skips: Vec<SkipTraffic>,
}

/// Bytes of a skip, which goes straight from one layer to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SkipTraffic {
    pub(super) name: &'static str,
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) bytes: u64,
}

impl Traffic {
    /// Computes the traffic. A value goes from layer to layer until its last reader. If a layer
    /// pops it, it instead comes straight from the layer that stashed it.
    pub(super) fn new(reads: &[Read], layers: &[LayerKey], skips: &[SkipPlan]) -> Self {
        let mut hops: BTreeMap<(usize, u64), u64> = BTreeMap::new();
        let mut popped: BTreeMap<(usize, usize, usize, u64), u64> = BTreeMap::new();
        for read in reads {
            let (from, to) = (read.from.unsigned_abs() as usize, read.to.unsigned_abs() as usize);
            let bytes = read.bytes.unsigned_abs() * (1 + read.gradient.unsigned_abs());
            let stash = skips.iter().enumerate().filter(|(_, skip)| skip.pop == layers[to].name);
            let stash = stash.filter_map(|(index, skip)| Some((stashed_at(skip, layers, from)?, index)));
            let stash = stash.filter(|(stash, _)| (from..to).contains(stash)).min();
            let left = stash.map_or(to, |(stash, _)| stash);
            for behind in from..left {
                let hop = hops.entry((behind, read.value)).or_default();
                *hop = bytes.max(*hop);
            }
            if let Some((stash, skip)) = stash {
                let hop = popped.entry((skip, stash, to, read.value)).or_default();
                *hop = bytes.max(*hop);
            }
        }

        let mut traffic = Self { boundaries: vec![0; layers.len().saturating_sub(1)], skips: Vec::new() };
        for ((behind, _), bytes) in hops {
            traffic.boundaries[behind] += bytes;
        }
        for ((skip, from, to, _), bytes) in popped {
            let name = skips[skip].name;
            match traffic.skips.last_mut().filter(|last| (last.name, last.from, last.to) == (name, from, to)) {
                Some(last) => last.bytes += bytes,
                None => traffic.skips.push(SkipTraffic { name, from, to, bytes }),
            }
        }
        traffic
    }
}

/// Returns the layer that stashes a value made by layer `made`. Of repeated layers, either the
/// first one stashes its input, or the last one its output.
fn stashed_at(skip: &SkipPlan, layers: &[LayerKey], made: usize) -> Option<usize> {
    let first = layers.iter().position(|layer| layer.name == skip.stash)?;
    let last = layers.iter().rposition(|layer| layer.name == skip.stash)?;
    Some(if made < first { first } else { last })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYERS: [LayerKey; 6] = [
        LayerKey { name: "a", index: None },
        LayerKey { name: "b", index: Some(0) },
        LayerKey { name: "b", index: Some(1) },
        LayerKey { name: "c", index: None },
        LayerKey { name: "d", index: None },
        LayerKey { name: "e", index: None },
    ];

    fn read(value: u64, from: i64, to: i64, bytes: i64) -> Read {
        Read { value, from, to, bytes, gradient: 0 }
    }

    fn skip(name: &'static str, stash: &'static str, pop: &'static str) -> SkipPlan {
        SkipPlan { name, stash, from: 0, pop, to: 0 }
    }

    #[test]
    fn a_value_crosses_every_cut_before_its_last_reader_once() {
        let traffic = Traffic::new(&[read(0, 0, 1, 8), read(0, 0, 3, 4), read(1, 0, 1, 16)], &LAYERS, &[]);
        assert_eq!(traffic.boundaries, [24, 4, 4, 0, 0]);
    }

    #[test]
    fn gradients_come_back() {
        let traffic = Traffic::new(&[Read { gradient: 1, ..read(0, 3, 4, 8) }], &LAYERS, &[]);
        assert_eq!(traffic.boundaries, [0, 0, 0, 16, 0]);
    }

    #[test]
    fn a_skip_goes_straight_from_its_stash() {
        let skips = [skip("s", "b", "d"), skip("t", "a", "e"), skip("u", "c", "d")];
        // The values are made by the last `b`; before `b`, so that it has to get there; and by `a`.
        let traffic = Traffic::new(&[read(0, 2, 4, 8), read(1, 0, 4, 4), read(2, 0, 5, 2)], &LAYERS, &skips);
        let expected = |name, from, to, bytes| SkipTraffic { name, from, to, bytes };
        assert_eq!(traffic.skips, [expected("s", 1, 4, 4), expected("s", 2, 4, 8), expected("t", 0, 5, 2)]);
        assert_eq!(traffic.boundaries, [4, 0, 0, 0, 0]);
    }
}
