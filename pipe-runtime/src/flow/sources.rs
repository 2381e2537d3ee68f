use tch::Tensor;

use crate::error::Result;
use crate::torch::Counter;

/// Version counters of the caller's tensors and of parts that share their memory but count in-place
/// changes separately. A change of the whole is a change of its parts, and vice versa, so the
/// counters are kept in step. Only the counters are held, so no tensor's memory is kept alive.
#[derive(Debug, Default)]
pub(crate) struct Sources(Vec<Source>);

#[derive(Debug)]
struct Source {
    whole: Counter,
    /// The whole's counter when it was last compared.
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

    /// Called after the forward. If a layer has changed a part in place, increments the counter of
    /// the caller's tensor.
    pub(crate) fn note_changes(&mut self) -> Result<()> {
        let is_changed = |source: &Source| source.parts.iter().any(|(part, seen)| part.now() != *seen);
        let changed: Vec<bool> = self.0.iter().map(is_changed).collect();
        for (source, _) in self.0.iter().zip(&changed).filter(|(_, changed)| **changed) {
            source.whole.bump()?;
        }
        for (source, changed) in self.0.iter_mut().zip(changed) {
            // The same tensor may have been passed twice. A change through one of them, just
            // counted for the whole, is also a change of the other one's parts.
            if !changed && source.whole.now() != source.seen {
                source.parts.iter().try_for_each(|(part, _)| part.bump())?;
            }
            source.parts.iter_mut().for_each(|(part, seen)| *seen = part.now());
            source.seen = source.whole.now();
        }
        Ok(())
    }

    /// Called before the backward. If the caller has changed a tensor in place, increments the
    /// counters of its parts, so that autograd detects the change of a part that it has saved.
    pub(crate) fn tell_parts(&self) -> Result<()> {
        for source in self.0.iter().filter(|source| source.whole.now() != source.seen) {
            source.parts.iter().try_for_each(|(part, _)| part.bump())?;
        }
        Ok(())
    }
}
