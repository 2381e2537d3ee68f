//! Loss scaling for training in half precision.

use crate::error::{Error, Result};

/// The scale below which no gradient that a float16 can hold would be left.
const LEAST: f64 = 1. / (1 << 24) as f64;

/// Scales the loss, so that small gradients do not vanish in half precision, as `GradScaler` does
/// in `torch.amp`.
///
/// The gradients of a step are those of the loss times [`scale`](Self::scale). If one of them is
/// not finite, the update is skipped and the scale shrinks; after enough updates in sequence, it
/// grows.
#[derive(Clone, Copy, Debug, PartialEq)]
#[must_use]
pub struct LossScaler {
    scale: f64,
    growth_factor: f64,
    backoff_factor: f64,
    growth_interval: u64,
    /// The number of updates since the scale last changed.
    good: u64,
}

impl Default for LossScaler {
    /// The defaults of `torch.amp.GradScaler`: a scale of 65536 that doubles after 2000 updates and
    /// is halved by each step that is skipped.
    fn default() -> Self {
        Self { scale: 65536., growth_factor: 2., backoff_factor: 0.5, growth_interval: 2000, good: 0 }
    }
}

impl LossScaler {
    /// Starts with another scale.
    pub fn with_scale(mut self, scale: f64) -> Self {
        self.scale = scale;
        self
    }

    /// Sets by which factor the scale grows, and after how many updates in sequence.
    pub fn growth(mut self, factor: f64, interval: u64) -> Self {
        (self.growth_factor, self.growth_interval) = (factor, interval);
        self
    }

    /// Sets by which factor a skipped update multiplies the scale.
    pub fn backoff(mut self, factor: f64) -> Self {
        self.backoff_factor = factor;
        self
    }

    /// Returns the present scale.
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// Returns the number of updates since the scale last changed.
    pub fn updates_since_change(&self) -> u64 {
        self.good
    }

    pub(crate) fn check(&self) -> Result<()> {
        let Self { scale, growth_factor, backoff_factor, growth_interval, .. } = *self;
        let refuse = |what: String| Err(Error::Setting(format!("loss scaling: {what}")));
        if !(scale.is_finite() && scale >= LEAST) {
            return refuse(format!("a scale of {scale} is not a finite number of at least 2^-24"));
        }
        if !(growth_factor.is_finite() && growth_factor > 1.) {
            return refuse(format!("a growth factor of {growth_factor} is not a finite number above 1"));
        }
        if !(backoff_factor > 0. && backoff_factor < 1.) {
            return refuse(format!("a backoff factor of {backoff_factor} is not between 0 and 1"));
        }
        if growth_interval == 0 {
            return refuse("the growth interval is 0".into());
        }
        Ok(())
    }

    /// Continues from a saved scale.
    pub(crate) fn restore(&mut self, scale: f64, good: u64) {
        (self.scale, self.good) = (scale, good);
    }

    /// Notes an update that was made.
    pub(crate) fn has_updated(&mut self) {
        self.good += 1;
        if self.good >= self.growth_interval {
            self.good = 0;
            let grown = self.scale * self.growth_factor;
            // Gradients are numbers of at most 32 bits.
            if grown <= f64::from(f32::MAX) {
                self.scale = grown;
            }
        }
    }

    /// Notes an update that was skipped.
    ///
    /// # Errors
    ///
    /// Fails if the scale cannot shrink further.
    pub(crate) fn has_skipped(&mut self, unfit: &str) -> Result<()> {
        let shrunk = self.scale * self.backoff_factor;
        if shrunk < LEAST {
            return Err(Error::Output(format!(
                "{unfit}, even with a loss scale of {}: the cause is not the range of half precision",
                self.scale
            )));
        }
        (self.scale, self.good) = (shrunk, 0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_follows_the_rules_of_torch() {
        let mut scaler = LossScaler::default().with_scale(8.).growth(2., 3);
        scaler.check().unwrap();
        let mut scales = Vec::new();
        for good in [true, true, true, true, false, true, true, false, false] {
            if good {
                scaler.has_updated();
            } else {
                scaler.has_skipped("").unwrap();
            }
            scales.push(scaler.scale());
        }
        // `torch.amp.GradScaler` of torch 2.11 with the same settings.
        assert_eq!(scales, [8., 8., 16., 16., 8., 8., 8., 4., 2.]);
    }

    #[test]
    fn a_scale_that_shrinks_without_end_is_an_error() {
        let mut scaler = LossScaler::default().with_scale(1.);
        let error = (0..100).find_map(|_| scaler.has_skipped("the gradient of `a` is NaN").err()).unwrap();
        assert!(error.to_string().starts_with("the gradient of `a` is NaN, even with a loss scale of 0.0000000596"));
    }

    #[test]
    fn the_scale_stays_within_32_bits() {
        let mut scaler = LossScaler::default().with_scale(f64::from(f32::MAX)).growth(2., 1);
        scaler.has_updated();
        assert_eq!(scaler.scale(), f64::from(f32::MAX));
    }
}
