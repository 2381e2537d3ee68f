use tch::Tensor;

use crate::error::Result;
use crate::torch::Counter;

/// The caller's tensors whose parts have their own version counters. They share memory, so a change
/// of the one is a change of the others. This holds counters, and no memory.
#[derive(Debug, Default)]
pub(crate) struct Sources(Vec<Source>);

#[derive(Debug)]
struct Source {
    whole: Counter,
    /// The version of the whole tensor at the last comparison.
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

    /// Runs after the forward: if a layer changed a part in place, the change is counted for the
    /// caller's tensor too.
    pub(crate) fn note_changes(&mut self) -> Result<()> {
        let is_changed = |source: &Source| source.parts.iter().any(|(part, seen)| part.now() != *seen);
        let changed: Vec<bool> = self.0.iter().map(is_changed).collect();
        for (source, _) in self.0.iter().zip(&changed).filter(|(_, changed)| **changed) {
            source.whole.bump()?;
        }
        for (source, changed) in self.0.iter_mut().zip(changed) {
            // The caller may have passed the same tensor twice: a change through one handle counts
            // for the other.
            if !changed && source.whole.now() != source.seen {
                source.parts.iter().try_for_each(|(part, _)| part.bump())?;
            }
            source.parts.iter_mut().for_each(|(part, seen)| *seen = part.now());
            source.seen = source.whole.now();
        }
        Ok(())
    }

    /// Runs before the backward: if the caller changed a tensor in place, the change is counted for
    /// its parts too, so that whatever saved one notices it.
    pub(crate) fn tell_parts(&self) -> Result<()> {
        for source in self.0.iter().filter(|source| source.whole.now() != source.seen) {
            source.parts.iter().try_for_each(|(part, _)| part.bump())?;
        }
        Ok(())
    }
}
