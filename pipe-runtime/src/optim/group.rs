//! Groups of parameters with their own options.

use std::fmt;

use tch::Tensor;

use super::{LrSchedule, Rule};
use crate::error::Result;
use crate::model::selected;

/// Parameters of a model that have options of their own in an optimizer. Each parameter belongs to
/// the first group that selects it. Those that no group selects have the optimizer's options.
///
/// ```
/// use pipe_runtime::optim::Group;
/// Group::pattern("embed").lr(1e-4);
/// Group::biases_and_norms().weight_decay(0.);
/// Group::matching(|name, variable| name.ends_with("scale") && variable.dim() == 1).lr(0.);
/// ```
#[must_use]
pub struct Group {
    selects: Selects,
    rule: Option<Rule>,
    lr: Option<f64>,
    weight_decay: Option<f64>,
    lr_schedule: Option<LrSchedule>,
}

enum Selects {
    Pattern(String),
    BiasesAndNorms,
    Matching(Box<Predicate>),
}

/// Whether a variable of a name is in the group.
type Predicate = dyn Fn(&str, &Tensor) -> bool;

impl Group {
    fn new(selects: Selects) -> Self {
        Self { selects, rule: None, lr: None, weight_decay: None, lr_schedule: None }
    }

    /// Selects the variables that [`Vars::select`](crate::Vars::select) selects: by a name or the
    /// start of one (`"encoder"`), where `*` stands for any text (`"*.bias"`).
    pub fn pattern(pattern: impl Into<String>) -> Self {
        Self::new(Selects::Pattern(pattern.into()))
    }

    /// Selects the biases and the weights of norms: all variables with at most one dimension.
    /// Usually they have no weight decay.
    pub fn biases_and_norms() -> Self {
        Self::new(Selects::BiasesAndNorms)
    }

    /// Selects the variables for which `selects` returns true, called with their names.
    pub fn matching(selects: impl Fn(&str, &Tensor) -> bool + 'static) -> Self {
        Self::new(Selects::Matching(Box::new(selects)))
    }

    /// Sets another rule for the group.
    pub fn rule(mut self, rule: impl Into<Rule>) -> Self {
        self.rule = Some(rule.into());
        self
    }

    /// Sets the group's learning rate.
    pub fn lr(mut self, lr: f64) -> Self {
        self.lr = Some(lr);
        self
    }

    /// Sets the group's weight decay.
    pub fn weight_decay(mut self, weight_decay: f64) -> Self {
        self.weight_decay = Some(weight_decay);
        self
    }

    /// Sets the group's learning-rate schedule.
    pub fn lr_schedule(mut self, schedule: LrSchedule) -> Self {
        self.lr_schedule = Some(schedule);
        self
    }

    /// Returns for each variable whether the group selects it.
    ///
    /// # Errors
    ///
    /// Fails if a pattern selects no variable.
    pub(crate) fn selection(&self, variables: &[(&str, &Tensor)]) -> Result<Vec<bool>> {
        Ok(match &self.selects {
            Selects::Pattern(pattern) => selected(pattern, variables.iter().map(|&(name, _)| name))?,
            Selects::BiasesAndNorms => variables.iter().map(|(_, variable)| variable.dim() <= 1).collect(),
            Selects::Matching(selects) => variables.iter().map(|(name, variable)| selects(name, variable)).collect(),
        })
    }

    /// The group's rule and schedule, where `rule` and `schedule` are those of the optimizer.
    pub(crate) fn options(&self, rule: Rule, schedule: &LrSchedule) -> (Rule, LrSchedule) {
        let mut rule = self.rule.unwrap_or(rule);
        if let Some(lr) = self.lr {
            rule.set_lr(lr);
        }
        if let Some(weight_decay) = self.weight_decay {
            rule.set_weight_decay(weight_decay);
        }
        (rule, self.lr_schedule.clone().unwrap_or_else(|| schedule.clone()))
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.selects {
            Selects::Pattern(pattern) => write!(f, "Group::pattern({pattern:?})"),
            Selects::BiasesAndNorms => f.write_str("Group::biases_and_norms()"),
            Selects::Matching(_) => f.write_str("Group::matching(..)"),
        }
    }
}
