//! Finds what would cross a cut, from which layer reads memory that another layer wrote.
//!
//! Types cannot tell: a layer's output need not be [`Flow`](crate::Flow), because it may never
//! leave its stage. Memory can, whatever value it belongs to: if an operator of a later layer reads
//! memory that an earlier layer allocated, it needs that value on its own device.

use std::collections::BTreeMap;

use crate::model::{LentPlan, Plan};
use crate::torch::Read;

/// A top-level layer of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LayerKey {
    pub(super) name: &'static str,
    /// The index in a repeated layer.
    pub(super) index: Option<usize>,
}

/// Bytes that would cross a cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Crossed {
    /// Values, in the forward.
    pub(super) values: u64,
    /// Gradients, in the backward, for values that have one.
    pub(super) gradients: u64,
    /// The part of `values` that the graph keeps anyway.
    pub(super) kept: u64,
}

impl Crossed {
    /// All that crosses, in the forward and in the backward.
    pub(super) fn total(self) -> u64 {
        self.values + self.gradients
    }

    fn of(read: &Read) -> Self {
        let values = read.bytes.unsigned_abs();
        let part = |flag: i64| values * flag.unsigned_abs();
        Self { values, gradients: part(read.gradient), kept: part(read.kept) }
    }

    /// The larger of two reads of one value.
    fn max(self, other: Self) -> Self {
        Self {
            values: self.values.max(other.values),
            gradients: self.gradients.max(other.gradients),
            kept: self.kept.max(other.kept),
        }
    }

    fn add(&mut self, other: Self) {
        self.values += other.values;
        self.gradients += other.gradients;
        self.kept += other.kept;
    }
}

/// What would cross each cut.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Traffic {
    /// After each layer but the last, for values that go from layer to layer.
    pub(super) boundaries: Vec<Crossed>,
    /// For each skip that was observed.
    pub(super) skips: Vec<SkipTraffic>,
}

/// What one skip carries from its stash to its pop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SkipTraffic {
    pub(super) name: &'static str,
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) crossed: Crossed,
}

impl Traffic {
    /// A value passes from layer to layer until its last read. A layer that pops it gets it
    /// directly from the layer that stashed it. One that reads what is lent gets it from the last
    /// layer before it that has it: the value goes to each stage once.
    pub(super) fn new(reads: &[Read], layers: &[LayerKey], plan: &Plan) -> Self {
        let mut hops: BTreeMap<(usize, u64), Crossed> = BTreeMap::new();
        let mut taken: BTreeMap<(&'static str, usize, usize, u64), Crossed> = BTreeMap::new();
        for read in reads {
            let (from, to) = (read.from.unsigned_abs() as usize, read.to.unsigned_abs() as usize);
            let crossed = Crossed::of(read);
            let popped = plan.skips.iter().filter(|skip| skip.pop == layers[to].name);
            let popped = popped.filter_map(|skip| {
                let each = layers[to].index.map(|index| one_of_each(skip.stash, layers, index));
                Some((each.unwrap_or_else(|| kept_at(skip.stash, layers, from))?, skip.name))
            });
            let popped = popped.map(|(stash, name)| (stash, stash, name));
            let lent = plan.lent.iter().filter(|lent| is_read(plan, lent, layers[to]));
            let lent = lent.filter_map(|lent| {
                let lender = kept_at(lent.lender, layers, from)?;
                let holder = (lender..to).rev().find(|&layer| layer == lender || is_read(plan, lent, layers[layer]))?;
                Some((lender, holder, lent.name))
            });
            let found = popped.chain(lent).filter(|(left, ..)| (from..to).contains(left)).min();
            let left = found.map_or(to, |(left, ..)| left);
            for behind in from..left {
                let hop = hops.entry((behind, read.value)).or_default();
                *hop = crossed.max(*hop);
            }
            if let Some((_, holder, name)) = found {
                let hop = taken.entry((name, holder, to, read.value)).or_default();
                *hop = crossed.max(*hop);
            }
        }

        let mut traffic =
            Self { boundaries: vec![Crossed::default(); layers.len().saturating_sub(1)], skips: Vec::new() };
        for ((behind, _), crossed) in hops {
            traffic.boundaries[behind].add(crossed);
        }
        for ((name, from, to, _), crossed) in taken {
            match traffic.skips.last_mut().filter(|last| (last.name, last.from, last.to) == (name, from, to)) {
                Some(last) => last.crossed.add(crossed),
                None => traffic.skips.push(SkipTraffic { name, from, to, crossed }),
            }
        }
        traffic
    }
}

/// The number of the layer `name` that stashes or lends a value made by layer `made`. Repeated
/// layers keep the input of the first one or the output of the last one.
fn kept_at(name: &str, layers: &[LayerKey], made: usize) -> Option<usize> {
    let first = layers.iter().position(|layer| layer.name == name)?;
    let last = layers.iter().rposition(|layer| layer.name == name)?;
    Some(if made < first { first } else { last })
}

/// The number of the repeated layer `name` whose skip goes to the one with the index `popping` of
/// another array: the first one takes that of the last one.
fn one_of_each(name: &str, layers: &[LayerKey], popping: usize) -> Option<usize> {
    layers.iter().enumerate().rev().filter(|(_, layer)| layer.name == name).nth(popping).map(|(number, _)| number)
}

fn is_read(plan: &Plan, lent: &LentPlan, layer: LayerKey) -> bool {
    plan.readers(lent).any(|(_, reader)| reader.name == layer.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{LayerPlan, SkipPlan, StagePlan};

    const LAYERS: [LayerKey; 6] = [
        LayerKey { name: "a", index: None },
        LayerKey { name: "b", index: Some(0) },
        LayerKey { name: "b", index: Some(1) },
        LayerKey { name: "c", index: None },
        LayerKey { name: "d", index: None },
        LayerKey { name: "e", index: None },
    ];

    fn read(value: u64, from: i64, to: i64, bytes: i64) -> Read {
        Read { value, from, to, bytes, gradient: 0, kept: 0 }
    }

    fn totals(traffic: &Traffic) -> Vec<u64> {
        traffic.boundaries.iter().map(|crossed| crossed.total()).collect()
    }

    const fn skip(name: &'static str, stash: &'static str, pop: &'static str) -> SkipPlan {
        SkipPlan { name, stash, from: 0, pop, to: 0 }
    }

    #[test]
    fn a_value_crosses_every_cut_before_its_last_reader_once() {
        let traffic = Traffic::new(&[read(0, 0, 1, 8), read(0, 0, 3, 4), read(1, 0, 1, 16)], &LAYERS, &Plan::EMPTY);
        assert_eq!(totals(&traffic), [24, 4, 4, 0, 0]);
    }

    #[test]
    fn gradients_come_back() {
        let traffic = Traffic::new(&[Read { gradient: 1, ..read(0, 3, 4, 8) }], &LAYERS, &Plan::EMPTY);
        assert_eq!(totals(&traffic), [0, 0, 0, 16, 0]);
    }

    #[test]
    fn a_skip_goes_straight_from_its_stash() {
        const SKIPS: [SkipPlan; 3] = [skip("s", "b", "d"), skip("t", "a", "e"), skip("u", "c", "d")];
        let plan = Plan { skips: &SKIPS, ..Plan::EMPTY };
        // Three values: one made by the last `b`; one made before `b`, which therefore has to pass
        // through it; and one made by `a`.
        let traffic = Traffic::new(&[read(0, 2, 4, 8), read(1, 0, 4, 4), read(2, 0, 5, 2)], &LAYERS, &plan);
        let expected = |name, from, to, values| {
            let crossed = Crossed { values, ..Crossed::default() };
            SkipTraffic { name, from, to, crossed }
        };
        assert_eq!(traffic.skips, [expected("s", 1, 4, 4), expected("s", 2, 4, 8), expected("t", 0, 5, 2)]);
        assert_eq!(totals(&traffic), [4, 0, 0, 0, 0]);
    }

    #[test]
    fn a_lent_value_goes_from_reader_to_reader() {
        // Made by `a`, which lends it; read by both `b`, and by `e`. `c` reads another value.
        const LENT: [LentPlan; 1] = [LentPlan { name: "m", lender: "a", from: 0, readers: &[(1, 2), (4, 5)] }];
        const STAGE: StagePlan = StagePlan { device: "cpu", layers: &LayerPlan::layers(["a", "b", "c", "d", "e"]) };
        let plan = Plan { stages: &[STAGE], lent: &LENT, ..Plan::EMPTY };
        let reads = [read(0, 0, 1, 8), read(0, 0, 2, 8), read(0, 0, 5, 8), read(1, 2, 3, 2)];
        let traffic = Traffic::new(&reads, &LAYERS, &plan);
        let ways: Vec<_> = traffic.skips.iter().map(|skip| (skip.from, skip.to, skip.crossed.values)).collect();
        assert_eq!(ways, [(0, 1, 8), (1, 2, 8), (2, 5, 8)]);
        assert_eq!(totals(&traffic), [0, 0, 2, 0, 0]);
    }
}
