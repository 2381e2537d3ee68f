use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use tch::{Kind, Tensor};

use super::scratch::Scratch;
use crate::error::{Error, Result};
use crate::optim::{LossScaler, LrSchedule, Rule};
use crate::quiet::Quiet;
use crate::run::{BuiltPipeline, OptimizerBytes, PlannedParameter, UpdatePlan};
use crate::torch::{
    FusedRule, GradientState, Slot, Slots, Variable, caught, drop_gradient, duplicate, is_elsewhere, prepare_gradient,
};

/// An optimizer of a pipeline's parameters, whose updates run on the stages' executors and streams,
/// all stages at once. Made by [`Pipe::optimizer`](crate::Pipe::optimizer).
///
/// A parameter that has no gradient, or that is frozen, is left out of an update. Two variables on
/// the same memory are updated once. tch's optimizers work too, but on the calling thread, and
/// parameter by parameter.
pub struct Optimizer {
    pipeline: Arc<BuiltPipeline>,
    /// The options of the groups; first those of the parameters that no group selects.
    options: Vec<Options>,
    pub(super) parameters: Vec<Parameter>,
    /// The bytes of the state, as the pipeline counts them.
    bytes: OptimizerBytes,
    clip: Clip,
    /// The decay of the moving average.
    average: Option<f64>,
    updates: u64,
    /// The plan of the last update, and what it was made for.
    plan: Option<(Vec<Planned>, Arc<UpdatePlan>)>,
    /// Whether the model holds the moving averages instead of the parameters.
    pub(super) swapped: bool,
    /// Why the parameters can no longer be updated: an update failed halfway.
    broken: Option<String>,
}

/// The options of a group.
pub(super) struct Options {
    pub(super) rule: Rule,
    pub(super) schedule: LrSchedule,
}

/// How gradients are clipped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Clip {
    Off,
    Norm(f64),
    Value(f64),
}

/// A variable of the model, and what the optimizer keeps for it.
pub(super) struct Parameter {
    pub(super) name: String,
    pub(super) tensor: Tensor,
    pub(super) stage: usize,
    group: usize,
    /// The number of its updates.
    pub(super) updates: u64,
    /// The tensors that [`Rule::state_names`] names. There are none before it is trained.
    pub(super) state: Vec<Tensor>,
    pub(super) average: Option<Tensor>,
}

/// A parameter in a plan, and the rule that it follows. Parameters of a group differ in their rules
/// if they differ in kind or in their number of updates.
#[derive(Clone, Copy, PartialEq)]
struct Planned {
    parameter: usize,
    rule: usize,
}

/// What one update did.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Update {
    /// The L2 norm of the gradients of all stages together, before clipping, without loss scaling.
    pub norm: f64,
    /// The number by which clipping by norm multiplied the gradients; 1 if it did not.
    pub clipped_by: f64,
    /// The learning rate of this update, of the parameters that belong to no group.
    pub lr: f64,
    /// Whether the update was skipped, because a gradient was infinite or NaN under loss scaling.
    pub skipped: bool,
}

impl Parameter {
    pub(super) fn new(variable: Variable, group: usize) -> Self {
        let Variable { name, tensor, stage } = variable;
        Self { name, tensor, stage, group, updates: 0, state: Vec::new(), average: None }
    }

    /// Allocates what is missing of the state.
    fn allocate(&mut self, rule: &Rule, averages: bool) -> Result<()> {
        let value = self.tensor.f_detach()?;
        while self.state.len() < rule.state_names().len() {
            self.state.push(value.f_zeros_like()?);
        }
        if averages && self.average.is_none() {
            self.average = Some(duplicate(&value)?);
        }
        let fits = |kept: &Tensor| kept.kind() == value.kind() && kept.device() == value.device();
        match self.state.iter().chain(&self.average).all(fits) {
            true => Ok(()),
            false => Err(Error::Setting(format!(
                "`{}` is {:?} on {:?} now, and its optimizer was built when it was not: build another one",
                self.name,
                value.kind(),
                value.device()
            ))),
        }
    }

    /// The same parameter with the same state.
    fn share(&self) -> Self {
        let Slot { parameter, state, average } = self.slot();
        let Self { stage, group, updates, .. } = *self;
        Self { name: self.name.clone(), tensor: parameter, stage, group, updates, state, average }
    }

    /// Whether the optimizer keeps nothing for it yet.
    pub(super) fn is_bare(&self) -> bool {
        self.state.is_empty() && self.average.is_none()
    }

    /// The bytes of its state.
    fn state_bytes(&self) -> u64 {
        let bytes = |tensor: &Tensor| (tensor.numel() * tensor.kind().elt_size_in_bytes()) as u64;
        self.state.iter().chain(&self.average).map(bytes).sum()
    }

    fn slot(&self) -> Slot {
        Slot {
            parameter: self.tensor.shallow_clone(),
            state: self.state.iter().map(Tensor::shallow_clone).collect(),
            average: self.average.as_ref().map(Tensor::shallow_clone),
        }
    }
}

impl Optimizer {
    pub(super) fn new(
        pipeline: Arc<BuiltPipeline>,
        options: Vec<Options>,
        mut parameters: Vec<Parameter>,
        clip: Clip,
        average: Option<f64>,
    ) -> Result<Self> {
        // Of two names of one memory, the first one counts.
        let mut seen = std::collections::HashSet::new();
        parameters.retain(|Parameter { tensor, .. }| {
            tensor.numel() == 0 || is_elsewhere(tensor) || seen.insert(tensor.data_ptr())
        });
        let is_trained =
            |parameter: &&mut Parameter| parameter.tensor.requires_grad() && pipeline.is_here(parameter.stage);
        for parameter in parameters.iter_mut().filter(is_trained) {
            parameter.allocate(&options[parameter.group].rule, average.is_some())?;
        }
        let mut optimizer = Self {
            bytes: OptimizerBytes::new(Arc::clone(&pipeline)),
            pipeline,
            options,
            parameters,
            clip,
            average,
            updates: 0,
            plan: None,
            swapped: false,
            broken: None,
        };
        optimizer.count();
        Ok(optimizer)
    }

    /// Tells the pipeline the bytes of the state.
    fn count(&mut self) {
        self.bytes.set(self.parameters.iter().map(|parameter| (parameter.stage, parameter.state_bytes())));
    }

    /// Whether it updates the parameters of this pipeline.
    pub(super) fn is_of(&self, pipeline: &Arc<BuiltPipeline>) -> bool {
        Arc::ptr_eq(&self.pipeline, pipeline)
    }

    /// Whether this process updates the parameter.
    pub(super) fn is_here(&self, parameter: &Parameter) -> bool {
        self.pipeline.is_here(parameter.stage)
    }

    /// The rule that a parameter follows.
    pub(super) fn rule_of(&self, parameter: &Parameter) -> &Rule {
        &self.options[parameter.group].rule
    }

    /// Whether it keeps a moving average of the parameters.
    pub(super) fn keeps_average(&self) -> bool {
        self.average.is_some()
    }

    /// Allocates the state of the parameters for which `has_state` holds, and drops that of the
    /// others. Nothing changes if there is no memory for all of it.
    pub(super) fn allocate_for(&mut self, has_state: impl Fn(&Parameter) -> bool) -> Result<()> {
        let with_state = |parameter: &Parameter| {
            let mut with_state = parameter.share();
            if has_state(parameter) && self.pipeline.is_here(parameter.stage) {
                with_state.allocate(self.rule_of(parameter), self.average.is_some())?;
            } else {
                (with_state.state, with_state.average) = (Vec::new(), None);
            }
            Ok(with_state)
        };
        self.parameters = self.parameters.iter().map(with_state).collect::<Result<_>>()?;
        self.plan = None;
        self.count();
        Ok(())
    }

    /// Sets the number of updates that were made.
    pub(super) fn set_updates(&mut self, updates: u64) {
        self.updates = updates;
    }

    /// Clips the gradients and updates the parameters. Returns once this is done (on accelerators:
    /// queued).
    ///
    /// The gradients stay, clipped: call [`zero_grad`](Self::zero_grad) before the next step.
    ///
    /// # Errors
    ///
    /// Fails, and changes nothing, if no parameter has a gradient, if a gradient is sparse, if one
    /// is infinite or NaN, if a variable or its gradient has changed its kind or device, or if a
    /// schedule of the learning rate panics or gives no factor from 0 on. If libtorch fails halfway
    /// through, the parameters are partly updated: every later call fails.
    pub fn step(&mut self) -> Result<Update> {
        self.update(1., Ok(()), |unfit| Err(Error::Output(format!("{unfit}: nothing was updated"))))
    }

    /// Updates the parameters as [`step`](Self::step) does, from gradients of the loss times
    /// `scaler.scale()`, and adjusts the scale. If a gradient is infinite or NaN, it skips the
    /// update instead of failing.
    ///
    /// # Errors
    ///
    /// Fails in the same cases as `step`, or if the scale cannot shrink further.
    pub fn step_scaled(&mut self, scaler: &mut LossScaler) -> Result<Update> {
        let checked = scaler.check();
        let update = self.update(scaler.scale(), checked, |unfit| scaler.has_skipped(&unfit))?;
        if !update.skipped {
            scaler.has_updated();
        }
        Ok(update)
    }

    /// `skip` decides what happens if a gradient is not finite: an error, or an update that is
    /// skipped.
    fn update(&mut self, scale: f64, checked: Result<()>, skip: impl FnOnce(String) -> Result<()>) -> Result<Update> {
        let (rates, given) = match self.rates() {
            Ok(rates) => (rates, Ok(())),
            Err(error) => (vec![f64::NAN; self.options.len()], Err(error)),
        };
        let begin = || {
            given?;
            checked?;
            if let Some(broken) = &self.broken {
                return Err(Error::Setting(format!(
                    "an earlier update failed halfway ({broken}), so the parameters are partly updated: build the model again, from a checkpoint"
                )));
            }
            if self.swapped {
                return Err(Error::Setting(
                    "the model holds its moving averages: call `swap_average` again before training".into(),
                ));
            }
            let ready = self.prepare();
            // The update may be the first one of a parameter, which gets its state.
            self.count();
            let ready = ready?;
            let (planned, rules) = self.rules(&ready, &rates);
            let plan = self.plan(planned);
            let squares = plan.gradient_squares(&self.pipeline)?;
            Ok((ready, rules, plan, squares))
        };
        let begun = begin();
        let name = |&parameter: &usize| self.parameters[parameter].name.clone();
        let own =
            begun.as_ref().map(|(ready, _, _, squares)| ready.iter().map(name).zip(squares.iter().copied()).collect());
        // All processes scale, clip and update in the same way.
        let what = format!(
            "an optimizer's update of gradients times {scale}, with clipping {:?}, learning rate {} and options {:08x}",
            self.clip,
            rates[0],
            self.options_digest(&rates)
        );
        let squares = self.pipeline.gather(&what, own)?;
        let (_, rules, plan, _) = begun?;
        if squares.is_empty() {
            return Err(Error::Setting(
                "no parameter has a gradient, so there is nothing to update: run `train_step` before, and `zero_grad` after".into(),
            ));
        }
        let norm = squares.values().sum::<f64>().sqrt() / scale;
        let lr = rates[0];
        if let Some((name, _)) = squares.iter().find(|(_, squares)| !squares.is_finite()) {
            skip(format!("the gradient of `{name}` is not finite"))?;
            return Ok(Update { norm, clipped_by: 1., lr, skipped: true });
        }
        // As `clip_grad_norm_` computes it.
        let clipped_by = match self.clip {
            Clip::Norm(limit) => (limit / (norm + 1e-6)).min(1.),
            Clip::Off | Clip::Value(_) => 1.,
        };
        let complete = |rule: FusedRule| FusedRule {
            divisor: scale / clipped_by,
            clamp: if let Clip::Value(limit) = self.clip { limit } else { f64::INFINITY },
            average_weight: self.average.map_or(0., |decay| 1. - decay),
            ..rule
        };
        let updated = plan.update(&self.pipeline, rules.into_iter().map(complete).collect());
        if let Err(error) = self.pipeline.agree("the end of an optimizer's update", updated) {
            self.broken = Some(error.to_string());
            return Err(error);
        }
        let has_moved = |parameter: &&mut Parameter| squares.contains_key(&parameter.name);
        self.parameters.iter_mut().filter(has_moved).for_each(|parameter| parameter.updates += 1);
        self.updates += 1;
        Ok(Update { norm, clipped_by, lr, skipped: false })
    }

    /// A digest of the options of all groups, as they are now, and of the moving average.
    fn options_digest(&self, rates: &[f64]) -> u32 {
        let mut digest = DefaultHasher::new();
        for (options, rate) in self.options.iter().zip(rates) {
            format!("{:?} {rate:?} {:?}", options.rule, self.average).hash(&mut digest);
        }
        digest.finish() as u32
    }

    /// The parameters that have a gradient in this process, with all of their state.
    fn prepare(&mut self) -> Result<Vec<usize>> {
        let mut ready = Vec::new();
        for (index, parameter) in self.parameters.iter_mut().enumerate() {
            let tensor = &parameter.tensor;
            if !tensor.requires_grad() || tensor.numel() == 0 || is_elsewhere(tensor) {
                continue;
            }
            let name = &parameter.name;
            match prepare_gradient(&parameter.tensor)? {
                GradientState::None => continue,
                GradientState::Ready => ready.push(index),
                GradientState::Sparse => {
                    return Err(Error::Setting(format!(
                        "`{name}` has a sparse gradient, which these optimizers do not take: make its embedding with `sparse: false`, or update it with tch's `Sgd`"
                    )));
                }
                GradientState::Unfit => {
                    return Err(Error::Setting(format!(
                        "the gradient of `{name}` is not one for it: it has another shape, kind or device"
                    )));
                }
                GradientState::UnfitParameter => {
                    return Err(Error::Setting(format!(
                        "`{name}` is {:?} with strides {:?}: these optimizers update tensors of real numbers that have memory of their own for each",
                        parameter.tensor.kind(),
                        parameter.tensor.stride()
                    )));
                }
            }
            parameter.allocate(&self.options[parameter.group].rule, self.average.is_some())?;
        }
        Ok(ready)
    }

    /// The learning rate of each group in the next update. A schedule of the user's may panic, or
    /// give a number that is none.
    fn rates(&self) -> Result<Vec<f64>> {
        let _quiet = Quiet::enter();
        let rate = |Options { rule, schedule }: &Options| {
            let failed = |what: String| {
                let update = self.updates + 1;
                Error::Setting(format!(
                    "the schedule of the learning rate {what} for update {update}: nothing was updated"
                ))
            };
            let factor =
                caught(|| schedule.factor(self.updates)).map_err(|cause| failed(format!("failed ({cause})")))?;
            match factor >= 0. && factor.is_finite() {
                true => Ok(rule.lr() * factor),
                false => Err(failed(format!("gave the factor {factor}, which is not one from 0 on"))),
            }
        };
        self.options.iter().map(rate).collect()
    }

    /// The rules of this update, and which of them each parameter follows.
    fn rules(&self, ready: &[usize], rates: &[f64]) -> (Vec<Planned>, Vec<FusedRule>) {
        let mut rules = Vec::new();
        let mut known: HashMap<(usize, Kind, u64), usize> = HashMap::new();
        let planned = ready.iter().map(|&index| {
            let parameter = &self.parameters[index];
            let key = (parameter.group, parameter.tensor.kind(), parameter.updates);
            let rule = *known.entry(key).or_insert_with(|| {
                let rule = self.options[parameter.group].rule.fused(rates[parameter.group]);
                rules.push(FusedRule { step: parameter.updates as i64 + 1, ..rule });
                rules.len() - 1
            });
            Planned { parameter: index, rule }
        });
        (planned.collect(), rules)
    }

    /// The plan for these parameters. It is kept, because most updates have the same ones.
    fn plan(&mut self, planned: Vec<Planned>) -> Arc<UpdatePlan> {
        let pipeline = &self.pipeline;
        let parameters = &self.parameters;
        match &self.plan {
            Some((known, plan)) if *known == planned => Arc::clone(plan),
            _ => {
                let slots = Slots::new(planned.iter().map(|planned| parameters[planned.parameter].slot()).collect());
                let list = planned
                    .iter()
                    .map(|planned| PlannedParameter { stage: parameters[planned.parameter].stage, rule: planned.rule });
                let plan = Arc::new(UpdatePlan::new(pipeline, slots, &list.collect::<Vec<_>>()));
                self.plan = Some((planned, Arc::clone(&plan)));
                plan
            }
        }
    }

    /// Whether the parameters are exchanged with their moving averages.
    pub(crate) fn is_swapped(&self) -> bool {
        self.swapped
    }

    /// Whether a parameter has a gradient in this process.
    pub(crate) fn has_gradients(&self) -> bool {
        self.parameters.iter().any(|parameter| parameter.tensor.grad().defined())
    }

    /// Frees the gradients of all parameters, as `zero_grad(set_to_none=True)` does.
    ///
    /// # Errors
    ///
    /// Fails if a parameter no longer exists.
    pub fn zero_grad(&mut self) -> Result<()> {
        self.parameters.iter().try_for_each(|parameter| Ok(drop_gradient(&parameter.tensor)?))
    }

    /// Returns the learning rate of the next update, for the parameters that belong to no group.
    pub fn lr(&self) -> f64 {
        let Options { rule, schedule } = &self.options[0];
        rule.lr() * schedule.factor(self.updates)
    }

    /// Returns the number of updates that were made.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// Returns the bytes of the optimizer's state in this process: averages, momentum, and the
    /// moving average of the parameters. [`Pipe::memory`](crate::Pipe::memory) has them by rank.
    pub fn state_bytes(&self) -> u64 {
        self.parameters.iter().map(Parameter::state_bytes).sum()
    }

    /// Exchanges the parameters with their moving averages: the model then computes with the
    /// averages, until this is called again. Train with the parameters, and evaluate with the
    /// averages.
    ///
    /// # Errors
    ///
    /// Fails, and exchanges nothing, if the optimizer keeps no moving average, or if it cannot be
    /// copied.
    pub fn swap_average(&mut self) -> Result<()> {
        if self.average.is_none() {
            return Err(Error::Setting("the optimizer keeps no moving average: set `moving_average`".into()));
        }
        tch::no_grad(|| {
            let mut pairs = Vec::new();
            for Parameter { tensor, average, .. } in &self.parameters {
                if let Some(average) = average {
                    pairs.push((tensor.f_detach()?, average.shallow_clone()));
                }
            }
            let mut scratch = Scratch::for_any_of(pairs.iter().map(|(parameter, _)| parameter))?;
            for index in 0..pairs.len() {
                let (parameter, average) = &mut pairs[index];
                if let Err(error) = scratch.exchange(parameter, average) {
                    for (parameter, average) in &mut pairs[..index] {
                        scratch.exchange(parameter, average)?;
                    }
                    return Err(error.into());
                }
            }
            self.swapped = !self.swapped;
            Ok(())
        })
    }
}

impl fmt::Debug for Optimizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Optimizer")
            .field("rule", &self.options[0].rule)
            .field("groups", &(self.options.len() - 1))
            .field("updates", &self.updates)
            .finish_non_exhaustive()
    }
}
