use tch::Tensor;

use crate::error::Result;
use crate::torch::Counter;

/// The caller's tensors whose parts have separate version counters. A tensor and its parts share
/// their memory, so a change of one is a change of the other. This holds only the counters, not the
/// memory.
#[derive(Debug, Default)]
pub(crate) struct Sources(Vec<Source>);

#[derive(Debug)]
struct Source {
    whole: Counter,
    /// The count of `whole` when it was last compared.
    seen: u64,
    parts: Vec<(Counter, u64)>,
}

impl Sources {
    pub(super) fn add(&mut self, whole: &Tensor, parts: &[Tensor]) -> Result<()> {
        let whole = Counter::of(whole)?;
        let part = |part: &Tensor| Counter::of(part).map(|counter| (counter.now(), counter));
        let parts = parts.iter().map(|tensor| part(tensor).map(|(seen, counter)| (counter, seen)));
        self.0.push(Source { seen: whole.now(), whole, parts: parts.collect::<Result<_, _>>()? });
        Ok(())
    }

    /// Counts the in-place changes that layers made to parts as changes of the caller's tensors.
    /// Called after the forward.
    pub(crate) fn note_changes(&mut self) -> Result<()> {
        let is_changed = |source: &Source| source.parts.iter().any(|(part, seen)| part.now() != *seen);
        let changed: Vec<bool> = self.0.iter().map(is_changed).collect();
        for (source, _) in self.0.iter().zip(&changed).filter(|(_, changed)| **changed) {
            source.whole.bump()?;
        }
        for (source, changed) in self.0.iter_mut().zip(changed) {
            // The caller may have passed the same tensor twice. A change through one of them is a
            // change of the other.
            if !changed && source.whole.now() != source.seen {
                source.parts.iter().try_for_each(|(part, _)| part.bump())?;
            }
            source.parts.iter_mut().for_each(|(part, seen)| *seen = part.now());
            source.seen = source.whole.now();
        }
        Ok(())
    }

    /// Counts the caller's in-place changes of a tensor as changes of its parts, so that autograd
    /// notices them in the parts that it has saved. Called before the backward.
    pub(crate) fn tell_parts(&self) -> Result<()> {
        for source in self.0.iter().filter(|source| source.whole.now() != source.seen) {
            source.parts.iter().try_for_each(|(part, _)| part.bump())?;
        }
        Ok(())
    }
}
