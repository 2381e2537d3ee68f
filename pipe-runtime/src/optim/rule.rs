//! The rules of the optimizers, with the options of `torch.optim`.

use crate::error::{Error, Result};
use crate::torch::{FusedKind, FusedRule};

/// Options of Adam (Kingma and Ba 2014) with an L2 penalty, as in `torch.optim.Adam`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// The learning rate; 1e-3 by default.
    pub lr: f64,
    /// The weights of the running averages of the gradient and of its square; (0.9, 0.999) by
    /// default.
    pub betas: (f64, f64),
    /// Number that is added to the denominator; 1e-8 by default.
    pub eps: f64,
    /// The L2 penalty, which is added to the gradient; 0 by default.
    pub weight_decay: f64,
    /// Whether the maximum of the second average is used (Reddi et al. 2018); off by default.
    pub amsgrad: bool,
    /// Whether the loss is maximized; off by default.
    pub maximize: bool,
}

/// Options of AdamW (Loshchilov and Hutter 2017), whose weight decay does not pass through the
/// averages, as in `torch.optim.AdamW`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// The learning rate; 1e-3 by default.
    pub lr: f64,
    /// The weights of the running averages of the gradient and of its square; (0.9, 0.999) by
    /// default.
    pub betas: (f64, f64),
    /// Number that is added to the denominator; 1e-8 by default.
    pub eps: f64,
    /// The weight decay: each update first multiplies the parameter by `1 - lr * weight_decay`. The
    /// default is 0.01.
    pub weight_decay: f64,
    /// Whether the maximum of the second average is used (Reddi et al. 2018); off by default.
    pub amsgrad: bool,
    /// Whether the loss is maximized; off by default.
    pub maximize: bool,
}

/// Options of stochastic gradient descent, as in `torch.optim.SGD`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    /// The learning rate; 1e-3 by default.
    pub lr: f64,
    /// The momentum; 0 by default, which keeps no buffer.
    pub momentum: f64,
    /// The part of the gradient that is not added to the momentum; 0 by default.
    pub dampening: f64,
    /// The L2 penalty, which is added to the gradient; 0 by default.
    pub weight_decay: f64,
    /// Whether the momentum is Nesterov's; off by default.
    pub nesterov: bool,
    /// Whether the loss is maximized; off by default.
    pub maximize: bool,
}

impl Default for Adam {
    fn default() -> Self {
        Self { lr: 1e-3, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0., amsgrad: false, maximize: false }
    }
}

impl Default for AdamW {
    fn default() -> Self {
        Self { lr: 1e-3, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 1e-2, amsgrad: false, maximize: false }
    }
}

impl Default for Sgd {
    fn default() -> Self {
        Self { lr: 1e-3, momentum: 0., dampening: 0., weight_decay: 0., nesterov: false, maximize: false }
    }
}

/// The rule by which parameters are updated.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Rule {
    /// Adam with an L2 penalty.
    Adam(Adam),
    /// Adam with decoupled weight decay.
    AdamW(AdamW),
    /// Stochastic gradient descent.
    Sgd(Sgd),
}

impl From<Adam> for Rule {
    fn from(options: Adam) -> Self {
        Self::Adam(options)
    }
}

impl From<AdamW> for Rule {
    fn from(options: AdamW) -> Self {
        Self::AdamW(options)
    }
}

impl From<Sgd> for Rule {
    fn from(options: Sgd) -> Self {
        Self::Sgd(options)
    }
}

impl Rule {
    /// Returns the learning rate.
    pub fn lr(&self) -> f64 {
        match self {
            Self::Adam(options) => options.lr,
            Self::AdamW(options) => options.lr,
            Self::Sgd(options) => options.lr,
        }
    }

    /// Sets the learning rate.
    pub(crate) fn set_lr(&mut self, value: f64) {
        match self {
            Self::Adam(options) => options.lr = value,
            Self::AdamW(options) => options.lr = value,
            Self::Sgd(options) => options.lr = value,
        }
    }

    /// Sets the weight decay.
    pub(crate) fn set_weight_decay(&mut self, value: f64) {
        match self {
            Self::Adam(options) => options.weight_decay = value,
            Self::AdamW(options) => options.weight_decay = value,
            Self::Sgd(options) => options.weight_decay = value,
        }
    }

    /// The names of the tensors that are kept for each parameter, as in the state of `torch.optim`.
    pub(crate) fn state_names(&self) -> &'static [&'static str] {
        match self {
            Self::Adam(Adam { amsgrad: true, .. }) | Self::AdamW(AdamW { amsgrad: true, .. }) => {
                &["exp_avg", "exp_avg_sq", "max_exp_avg_sq"]
            }
            Self::Adam(_) | Self::AdamW(_) => &["exp_avg", "exp_avg_sq"],
            Self::Sgd(options) if options.momentum != 0. => &["momentum_buffer"],
            Self::Sgd(_) => &[],
        }
    }

    /// The rule's name, as in `torch.optim`.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Adam(_) => "Adam",
            Self::AdamW(_) => "AdamW",
            Self::Sgd(_) => "SGD",
        }
    }

    /// # Errors
    ///
    /// Fails if an option is out of the range that `torch.optim` allows.
    pub(crate) fn check(&self) -> Result<()> {
        let refuse = |option: &str, value: f64, range: &str| {
            Err(Error::Setting(format!("{}: {option} is {value}, and must be {range}", self.name())))
        };
        // Written so that NaN fails too.
        let at_least_0 = |option, value: f64| {
            if value >= 0. && value.is_finite() {
                Ok(())
            } else {
                refuse(option, value, "a finite number of at least 0")
            }
        };
        at_least_0("lr", self.lr())?;
        match *self {
            Self::Adam(Adam { betas, eps, weight_decay, .. }) | Self::AdamW(AdamW { betas, eps, weight_decay, .. }) => {
                at_least_0("eps", eps)?;
                at_least_0("weight_decay", weight_decay)?;
                for (option, beta) in [("betas.0", betas.0), ("betas.1", betas.1)] {
                    if !(0. ..1.).contains(&beta) {
                        return refuse(option, beta, "at least 0 and below 1");
                    }
                }
            }
            Self::Sgd(Sgd { momentum, dampening, weight_decay, nesterov, .. }) => {
                at_least_0("momentum", momentum)?;
                at_least_0("weight_decay", weight_decay)?;
                if !dampening.is_finite() {
                    return refuse("dampening", dampening, "a finite number");
                }
                if nesterov && (momentum == 0. || dampening != 0.) {
                    return Err(Error::Setting("SGD: nesterov needs a momentum above 0, and a dampening of 0".into()));
                }
            }
        }
        Ok(())
    }

    /// The rule with the learning rate `lr`, for a fused kernel.
    pub(crate) fn fused(&self, lr: f64) -> FusedRule {
        let adam = |kind, options: Adam| FusedRule {
            kind,
            amsgrad: options.amsgrad.into(),
            maximize: options.maximize.into(),
            lr,
            beta1: options.betas.0,
            beta2: options.betas.1,
            eps: options.eps,
            weight_decay: options.weight_decay,
            ..FusedRule::default()
        };
        match *self {
            Self::Adam(options) => adam(FusedKind::Adam, options),
            Self::AdamW(AdamW { lr, betas, eps, weight_decay, amsgrad, maximize }) => {
                adam(FusedKind::AdamW, Adam { lr, betas, eps, weight_decay, amsgrad, maximize })
            }
            Self::Sgd(options) => FusedRule {
                kind: FusedKind::Sgd,
                nesterov: options.nesterov.into(),
                maximize: options.maximize.into(),
                lr,
                weight_decay: options.weight_decay,
                momentum: options.momentum,
                dampening: options.dampening,
                ..FusedRule::default()
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_out_of_range_are_named() {
        let message = |rule: Rule| rule.check().unwrap_err().to_string();
        let lr = message(AdamW { lr: -1., ..AdamW::default() }.into());
        assert_eq!(lr, "AdamW: lr is -1, and must be a finite number of at least 0");
        let beta = message(Adam { betas: (0.9, 1.), ..Adam::default() }.into());
        assert_eq!(beta, "Adam: betas.1 is 1, and must be at least 0 and below 1");
        let eps = message(Adam { eps: f64::NAN, ..Adam::default() }.into());
        assert_eq!(eps, "Adam: eps is NaN, and must be a finite number of at least 0");
        let nesterov = message(Sgd { nesterov: true, ..Sgd::default() }.into());
        assert_eq!(nesterov, "SGD: nesterov needs a momentum above 0, and a dampening of 0");
        for rule in [Adam::default().into(), AdamW::default().into(), Rule::from(Sgd::default())] {
            rule.check().unwrap();
        }
    }
}
