use std::sync::atomic::{AtomicUsize, Ordering};

/// A number that rises and falls, and the most it has been.
#[derive(Debug, Default)]
pub(super) struct Gauge {
    now: AtomicUsize,
    peak: AtomicUsize,
}

impl Gauge {
    pub(super) fn rise(&self) {
        let now = self.now.fetch_add(1, Ordering::Relaxed) + 1;
        self.peak.fetch_max(now, Ordering::Relaxed);
    }

    /// Down to nothing at the least: what the caller puts in is not counted, what a stage takes out is.
    pub(super) fn fall(&self) {
        let lower = |now: usize| now.checked_sub(1);
        let _ = self.now.fetch_update(Ordering::Relaxed, Ordering::Relaxed, lower);
    }

    pub(super) fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }
}
