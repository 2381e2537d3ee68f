use std::sync::atomic::{AtomicUsize, Ordering};

/// A counter that remembers its maximum.
#[derive(Debug, Default)]
pub(super) struct PeakCounter {
    now: AtomicUsize,
    peak: AtomicUsize,
}

impl PeakCounter {
    pub(super) fn rise(&self) {
        let now = self.now.fetch_add(1, Ordering::Relaxed) + 1;
        self.peak.fetch_max(now, Ordering::Relaxed);
    }

    /// Does not go below zero: the caller's inputs are received but were never counted.
    pub(super) fn fall(&self) {
        let lower = |now: usize| now.checked_sub(1);
        let _ = self.now.fetch_update(Ordering::Relaxed, Ordering::Relaxed, lower);
    }

    pub(super) fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }
}
