//! Learning-rate schedules.

use std::f64::consts::PI;
use std::fmt;
use std::sync::Arc;

use crate::error::{Error, Result};

/// A learning-rate schedule: for each update, the number by which the learning rate of its group is
/// multiplied.
///
/// A schedule is a function of the number of updates that were made before, so a resumed training
/// continues it. Skipped updates do not count.
///
/// ```
/// use pipe_runtime::optim::LrSchedule;
/// let schedule = LrSchedule::cosine(1000, 0.1).warmup(10);
/// assert_eq!(schedule.factor(0), 0.1); // the first of 10 steps up
/// assert_eq!(schedule.factor(10), 1.);
/// assert_eq!(schedule.factor(5000), 0.1); // it stays at its end
/// ```
#[derive(Clone)]
pub struct LrSchedule {
    warmup: u64,
    shape: Shape,
}

#[derive(Clone)]
enum Shape {
    Constant,
    Linear { updates: u64, end: f64 },
    Cosine { updates: u64, end: f64 },
    OneCycle { updates: u64, rise: f64, start: f64, end: f64 },
    Step { every: u64, gamma: f64 },
    Exponential { gamma: f64 },
    Custom(Arc<dyn Fn(u64) -> f64 + Send + Sync>),
}

impl LrSchedule {
    fn new(shape: Shape) -> Self {
        Self { warmup: 0, shape }
    }

    /// Keeps the learning rate.
    pub fn constant() -> Self {
        Self::new(Shape::Constant)
    }

    /// Goes from 1 to `end` in a line over `updates` updates, and stays there: `LinearLR` of
    /// `torch.optim.lr_scheduler`, with a start factor of 1.
    pub fn linear(updates: u64, end: f64) -> Self {
        Self::new(Shape::Linear { updates, end })
    }

    /// Goes from 1 to `end` in half a cosine over `updates` updates: `CosineAnnealingLR`, whose
    /// `eta_min` is `end` times the learning rate. It then stays at `end`.
    pub fn cosine(updates: u64, end: f64) -> Self {
        Self::new(Shape::Cosine { updates, end })
    }

    /// One cycle (Smith and Topin 2017) over `updates` updates: `OneCycleLR` with its defaults. The
    /// learning rate is the highest one; it begins at a 25th of it, reaches it after 30 % of the
    /// updates, and ends at a 10,000th of the first one. Momentum does not change.
    pub fn one_cycle(updates: u64) -> Self {
        Self::new(Shape::OneCycle { updates, rise: 0.3, start: 1. / 25., end: 1. / 25. / 1e4 })
    }

    /// Multiplies the learning rate by `gamma` every `every` updates: `StepLR`.
    pub fn step(every: u64, gamma: f64) -> Self {
        Self::new(Shape::Step { every, gamma })
    }

    /// Multiplies the learning rate by `gamma` with each update: `ExponentialLR`.
    pub fn exponential(gamma: f64) -> Self {
        Self::new(Shape::Exponential { gamma })
    }

    /// Computes the factor from the number of updates that were made before: `LambdaLR`. If it
    /// panics, or gives a number below 0 or one that is not finite, the update is an error, and
    /// nothing is updated.
    pub fn custom(factor: impl Fn(u64) -> f64 + Send + Sync + 'static) -> Self {
        Self::new(Shape::Custom(Arc::new(factor)))
    }

    /// Puts a linear warm-up of `updates` updates before the schedule: the first one has 1 /
    /// `updates` of the schedule's first factor, the last one all of it. The schedule itself begins
    /// after that.
    pub fn warmup(mut self, updates: u64) -> Self {
        self.warmup = updates;
        self
    }

    /// Returns the factor of the update before which `updates` updates were made.
    pub fn factor(&self, updates: u64) -> f64 {
        if updates < self.warmup {
            return self.shape.factor(0) * (updates + 1) as f64 / self.warmup as f64;
        }
        self.shape.factor(updates - self.warmup)
    }

    pub(crate) fn check(&self) -> Result<()> {
        let fits = match self.shape {
            Shape::Constant | Shape::Custom(_) => true,
            Shape::Linear { updates, end } | Shape::Cosine { updates, end } => {
                updates > 0 && end >= 0. && end.is_finite()
            }
            Shape::OneCycle { updates, .. } => updates > 0,
            Shape::Step { every, gamma } => every > 0 && gamma >= 0. && gamma.is_finite(),
            Shape::Exponential { gamma } => gamma >= 0. && gamma.is_finite(),
        };
        if fits {
            return Ok(());
        }
        Err(Error::Setting(format!("{self:?}: updates are counted from 1, and factors are finite and at least 0")))
    }
}

impl Shape {
    fn factor(&self, updates: u64) -> f64 {
        let part = |of: u64| updates.min(of) as f64 / of as f64;
        let cosine = |from: f64, to: f64, part: f64| to + (from - to) / 2. * ((PI * part).cos() + 1.);
        match *self {
            Self::Constant => 1.,
            Self::Linear { updates, end } => 1. + (end - 1.) * part(updates),
            Self::Cosine { updates, end } => cosine(1., end, part(updates)),
            Self::OneCycle { updates: all, rise, start, end } => {
                // The positions of the peak and of the end, as torch counts them.
                let (peak, last) = (rise * all as f64 - 1., all as f64 - 1.);
                let now = (updates as f64).min(last);
                match now <= peak {
                    true => cosine(start, 1., if peak > 0. { now / peak } else { 1. }),
                    false => cosine(1., end, if last > peak { (now - peak) / (last - peak) } else { 1. }),
                }
            }
            Self::Step { every, gamma } => gamma.powf((updates / every) as f64),
            Self::Exponential { gamma } => gamma.powf(updates as f64),
            Self::Custom(ref factor) => factor(updates),
        }
    }
}

impl fmt::Debug for LrSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.shape {
            Shape::Constant => f.write_str("LrSchedule::constant()"),
            Shape::Linear { updates, end } => write!(f, "LrSchedule::linear({updates}, {end})"),
            Shape::Cosine { updates, end } => write!(f, "LrSchedule::cosine({updates}, {end})"),
            Shape::OneCycle { updates, .. } => write!(f, "LrSchedule::one_cycle({updates})"),
            Shape::Step { every, gamma } => write!(f, "LrSchedule::step({every}, {gamma})"),
            Shape::Exponential { gamma } => write!(f, "LrSchedule::exponential({gamma})"),
            Shape::Custom(_) => f.write_str("LrSchedule::custom(..)"),
        }?;
        if self.warmup > 0 { write!(f, ".warmup({})", self.warmup) } else { Ok(()) }
    }
}
