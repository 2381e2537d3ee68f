//! The seeds of the layers' random number generators.
//!
//! Random numbers depend on the model, not on the machine: each (call, layer path, micro-batch) has
//! a random number generator, seeded from one number that the call draws from the caller's
//! generator. So dropout masks are the same for every partitioning, schedule, interleaving and
//! recomputation, and for the unpipelined run, and no generator state has to be saved or restored.

/// The seed of a layer's random number generator: a hash of the call, the micro-batch and the
/// layer's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RngKey(u64);

impl RngKey {
    pub(crate) fn new(call_seed: u64, micro_batch: usize) -> Self {
        Self(mix(call_seed)).element(micro_batch)
    }

    /// The key of the child `name`.
    pub(crate) fn child(self, name: &str) -> Self {
        // FNV-1a is short, and the same on every machine, so a run can be reproduced elsewhere.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Self(mix(self.0 ^ hash))
    }

    /// The key of element `index` of a sequence.
    pub(crate) fn element(self, index: usize) -> Self {
        Self(mix(self.0.wrapping_add((index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))))
    }

    pub(crate) fn seed(self) -> u64 {
        self.0
    }
}

/// SplitMix64's finalizer (Steele et al. 2014, "Fast splittable pseudorandom number generators"):
/// every input bit reaches every output bit.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn calls_micro_batches_children_and_elements_have_different_seeds() {
        let mut seeds = HashSet::new();
        for call in 0..4 {
            for micro_batch in 0..8 {
                let root = RngKey::new(call, micro_batch);
                for name in ["a", "b", "ab"] {
                    let child = root.child(name);
                    seeds.insert(child.seed());
                    seeds.extend((0..4).map(|index| child.element(index).seed()));
                    seeds.insert(child.child("a").seed());
                }
            }
        }
        assert_eq!(seeds.len(), 4 * 8 * 3 * 6);
    }
}
