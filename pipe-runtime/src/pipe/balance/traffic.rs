//! Finds what would cross a cut, from which layer reads memory that another layer wrote.
//!
//! Types cannot tell: a layer's output need not be [`Flow`](crate::Flow), because it may never
//! leave its stage. Memory can, whatever value it belongs to: if an operator of a later layer reads
//! memory that an earlier layer allocated, it needs that value on its own device.

use std::collections::BTreeMap;

use crate::model::SkipPlan;
use crate::torch::Read;

/// A top-level layer of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LayerKey {
    pub(super) name: &'static str,
    /// The index in a repeated layer.
    pub(super) index: Option<usize>,
}

/// Bytes that would cross a cut: values in the forward, and gradients, for values that have one, in
/// the backward.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Traffic {
    /// After each layer but the last, for values that go from layer to layer.
    pub(super) boundaries: Vec<u64>,
    /// For each skip that was observed.
    pub(super) skips: Vec<SkipTraffic>,
}

/// What one skip carries from its stash to its pop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SkipTraffic {
    pub(super) name: &'static str,
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) bytes: u64,
}

impl Traffic {
    /// A value passes from layer to layer until its last read. A layer that pops it gets it
    /// directly from the layer that stashed it.
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

/// The layer that stashes a skip whose value was made by layer `made`. Repeated layers stash the
/// input of the first one or the output of the last one.
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
        // Three values: one made by the last `b`; one made before `b`, which therefore has to pass
        // through it; and one made by `a`.
        let traffic = Traffic::new(&[read(0, 2, 4, 8), read(1, 0, 4, 4), read(2, 0, 5, 2)], &LAYERS, &skips);
        let expected = |name, from, to, bytes| SkipTraffic { name, from, to, bytes };
        assert_eq!(traffic.skips, [expected("s", 1, 4, 4), expected("s", 2, 4, 8), expected("t", 0, 5, 2)]);
        assert_eq!(traffic.boundaries, [4, 0, 0, 0, 0]);
    }
}
