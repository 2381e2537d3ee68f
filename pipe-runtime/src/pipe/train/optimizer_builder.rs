use std::fmt;
use std::sync::Arc;

use tch::Tensor;

use super::optimizer::{Clip, Optimizer, Options, Parameter};
use crate::error::{Error, Result};
use crate::optim::{Group, LrSchedule, Rule};
use crate::pipe::Pipe;
use crate::run::BuiltPipeline;
use crate::stages::Pipeline;

impl<M: Pipeline> Pipe<M> {
    /// Prepares an optimizer of the pipeline's parameters: an [`AdamW`](crate::optim::AdamW),
    /// [`Adam`](crate::optim::Adam) or [`Sgd`](crate::optim::Sgd) with its options.
    ///
    /// ```no_run
    /// # use pipe_runtime::{Pipe, Pipeline};
    /// # use tch::Tensor;
    /// use pipe_runtime::optim::{AdamW, Group, LrSchedule};
    ///
    /// # fn example<M: Pipeline<Input = Tensor, Output = Tensor>>(
    /// #     mut pipe: Pipe<M>, x: &Tensor, y: &Tensor,
    /// # ) -> pipe_runtime::Result<()> {
    /// let mut optimizer = pipe
    ///     .optimizer(AdamW { lr: 3e-4, weight_decay: 0.1, ..AdamW::default() })
    ///     .group(Group::biases_and_norms().weight_decay(0.))
    ///     .clip_norm(1.)
    ///     .lr_schedule(LrSchedule::cosine(10_000, 0.1).warmup(100))
    ///     .build()?;
    /// pipe.train_step(x, y, |output, y: &Tensor| output.mse_loss(y, tch::Reduction::Mean))?;
    /// let update = optimizer.step()?;
    /// optimizer.zero_grad()?;
    /// println!("gradient norm {}, learning rate {}", update.norm, update.lr);
    /// # Ok(())
    /// # }
    /// ```
    pub fn optimizer(&self, rule: impl Into<Rule>) -> OptimizerBuilder {
        OptimizerBuilder {
            pipeline: Arc::clone(self.built()),
            rule: rule.into(),
            groups: Vec::new(),
            clip_norm: None,
            clip_value: None,
            schedule: LrSchedule::constant(),
            average: None,
        }
    }
}

/// The settings of an optimizer that is about to be built. Made by [`Pipe::optimizer`].
#[must_use = "a builder does nothing until `build` is called"]
pub struct OptimizerBuilder {
    pipeline: Arc<BuiltPipeline>,
    rule: Rule,
    groups: Vec<Group>,
    clip_norm: Option<f64>,
    clip_value: Option<f64>,
    schedule: LrSchedule,
    average: Option<f64>,
}

impl OptimizerBuilder {
    /// Adds a group of parameters with its own options. A parameter belongs to the first group that
    /// selects it.
    pub fn group(mut self, group: Group) -> Self {
        self.groups.push(group);
        self
    }

    /// Scales all gradients down if their norm, the L2 norm of the gradients of all stages
    /// together, is above `norm`: `clip_grad_norm_` of `torch.nn.utils`.
    pub fn clip_norm(mut self, norm: f64) -> Self {
        self.clip_norm = Some(norm);
        self
    }

    /// Clamps each number of each gradient to `-value..=value`: `clip_grad_value_` of
    /// `torch.nn.utils`.
    pub fn clip_value(mut self, value: f64) -> Self {
        self.clip_value = Some(value);
        self
    }

    /// Sets the learning-rate schedule of all groups without their own. The default is a constant
    /// learning rate.
    pub fn lr_schedule(mut self, schedule: LrSchedule) -> Self {
        self.schedule = schedule;
        self
    }

    /// Keeps an exponential moving average of the parameters: after each update, it becomes `decay`
    /// times itself plus `1 - decay` times the parameters. It takes the memory of the trained
    /// parameters. [`Optimizer::swap_average`] puts it in the model's place.
    pub fn moving_average(mut self, decay: f64) -> Self {
        self.average = Some(decay);
        self
    }

    /// Allocates the state of all parameters that are trained now.
    ///
    /// # Errors
    ///
    /// Fails if an option is out of its range, or if a group selects no variable, or none that an
    /// earlier group has left.
    pub fn build(self) -> Result<Optimizer> {
        let refuse = |what: String| Err(Error::Setting(what));
        let clip = match (self.clip_norm, self.clip_value) {
            (None, None) => Clip::Off,
            (Some(norm), None) if norm > 0. && norm.is_finite() => Clip::Norm(norm),
            (None, Some(value)) if value > 0. && value.is_finite() => Clip::Value(value),
            (Some(_), Some(_)) => return refuse("`clip_norm` and `clip_value` are both set: choose one".into()),
            (Some(limit), None) | (None, Some(limit)) => {
                return refuse(format!("gradients are clipped to a finite number above 0, and not to {limit}"));
            }
        };
        if let Some(decay) = self.average.filter(|decay| !(0. ..1.).contains(decay)) {
            return refuse(format!("the decay of a moving average is at least 0 and below 1, and not {decay}"));
        }

        let variables = self.pipeline.state.list();
        let named: Vec<(&str, &Tensor)> = variables.iter().map(|v| (v.name.as_str(), &v.tensor)).collect();
        let mut group_of = vec![0; variables.len()];
        let mut options = vec![Options { rule: self.rule, schedule: self.schedule }];
        for group in &self.groups {
            let selection = group.selection(&named)?;
            let number = options.len();
            let free = selection.iter().zip(&mut group_of).filter(|(selected, of)| **selected && **of == 0);
            let taken = free.map(|(_, of)| *of = number).count();
            if taken == 0 {
                return refuse(match selection.contains(&true) {
                    true => format!("{group:?} selects only variables that an earlier group has: put it before that"),
                    false => format!("{group:?} selects no variable"),
                });
            }
            let (rule, schedule) = group.options(options[0].rule, &options[0].schedule);
            options.push(Options { rule, schedule });
        }
        for Options { rule, schedule } in &options {
            rule.check()?;
            schedule.check()?;
        }
        let parameters = variables.into_iter().zip(group_of).map(|(variable, group)| Parameter::new(variable, group));
        Optimizer::new(self.pipeline, options, parameters.collect(), clip, self.average)
    }
}

impl fmt::Debug for OptimizerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OptimizerBuilder")
            .field("rule", &self.rule)
            .field("groups", &self.groups)
            .field("clip_norm", &self.clip_norm)
            .field("clip_value", &self.clip_value)
            .field("lr_schedule", &self.schedule)
            .field("moving_average", &self.average)
            .finish_non_exhaustive()
    }
}
