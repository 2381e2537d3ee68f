//! What would cross a cut, found out from which layer reads what another one has made.
//!
//! Types would not tell: a layer's output need not be a [`Flow`](crate::Flow), as it may never
//! leave its stage. Memory does, whatever it is part of: an operator of a later layer that reads
//! what an earlier one allocated needs it on its own device.

use std::collections::BTreeMap;

use crate::model::SkipPlan;
use crate::torch::Read;

/// A layer of the model itself, in the order in which layers run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LayerKey {
    pub(super) name: &'static str,
    /// Of a repeated one, which element.
    pub(super) index: Option<usize>,
}

/// Bytes that would cross a cut: values on their way forward, and gradients of those that carry one
/// on their way back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Traffic {
    /// Behind each layer but the last, on the way from layer to layer.
    pub(super) boundaries: Vec<u64>,
    /// For each skip that was seen.
    pub(super) skips: Vec<SkipTraffic>,
}

/// A skip goes straight from layer to layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SkipTraffic {
    pub(super) name: &'static str,
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) bytes: u64,
}

impl Traffic {
    /// A value goes from layer to layer until it is read for the last time, except where a layer
    /// pops it: there it comes straight from the layer that stashed it.
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

/// The layer from which a skip with a value made by layer `made` starts. Repeated layers stash what
/// goes into the first one, or what the last one gives.
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
        // Made by the last `b`; by what is before `b`, so that it has to get there; by `a`.
        let traffic = Traffic::new(&[read(0, 2, 4, 8), read(1, 0, 4, 4), read(2, 0, 5, 2)], &LAYERS, &skips);
        let expected = |name, from, to, bytes| SkipTraffic { name, from, to, bytes };
        assert_eq!(traffic.skips, [expected("s", 1, 4, 4), expected("s", 2, 4, 8), expected("t", 0, 5, 2)]);
        assert_eq!(traffic.boundaries, [4, 0, 0, 0, 0]);
    }
}
