//! The common clock of a trace over several processes.

use super::Remote;
use crate::error::Result;

/// The greatest number of times that the clocks are compared.
const ROUNDS: usize = 200;

/// What is known well enough, in seconds.
const NARROW: f64 = 50e-6;

impl Remote {
    /// Compares this process's clock with that of the first process of its replica. Returns the
    /// seconds by which the other one is ahead, to 25 µs on one machine that has a core for
    /// each process. A process that had to wait for a core compares again.
    pub(crate) fn clock_offset(&self, now: impl Fn() -> f64) -> Result<f64> {
        // Where the first process has read its clock, by the clock of this one: it reads it after
        // the round before, to which this process has contributed, and before the end of this one.
        let (mut earliest, mut latest) = (f64::NEG_INFINITY, f64::INFINITY);
        let mut contributed = f64::NEG_INFINITY;
        for _ in 0..ROUNDS {
            let sent = now();
            let all: Vec<(f64, f64)> = self.exchange("the clocks of a trace", &(sent, latest - earliest))?;
            let (first, _) = all[self.replica().start];
            earliest = earliest.max(first - now());
            latest = latest.min(first - contributed);
            contributed = sent;
            // All processes see the same, so all end with the same round.
            if all.iter().all(|(_, width)| *width < NARROW) {
                break;
            }
        }
        match self.process() == self.replica().start {
            true => Ok(0.),
            false => Ok(f64::midpoint(earliest, latest)),
        }
    }
}
