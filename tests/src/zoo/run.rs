//! Steps in the pipeline and in plain tch.

use std::collections::BTreeMap;
use std::fmt;

use pipe_runtime::optim::Sgd;
use pipe_runtime::schedule::{Action, ActionKind, Schedule};
use pipe_runtime::{CheapOutputs, Checkpoint, Pipe, PipeBuilder, Result, ScheduleKind};
use tch::{Kind, Tensor};

use super::comparison::same_bits;
use super::plain::{Named, Twin, gradients};
use super::probe::{Fault, How, ON_PURPOSE, Probe};
use super::stacks::{Watchable, ZooModel};

/// A mini-batch.
#[derive(Debug)]
pub struct Batch {
    /// Tensors of the input.
    pub input: Vec<Tensor>,
    /// Target, with which the loss compares the output.
    pub target: Tensor,
}

impl Batch {
    /// Creates a random mini-batch of `rows` rows.
    pub fn of<M: Watchable>(rows: i64) -> Self {
        Self { input: M::batch(rows), target: M::target(rows) }
    }

    /// Number of rows.
    pub fn rows(&self) -> i64 {
        self.target.size()[0]
    }

    /// Number of micro-batches that it is split into.
    pub fn micro_batches(&self, chunks: usize) -> usize {
        self.target.chunk(chunks as i64, 0).len()
    }

    /// Whether this call can train with the mini-batch: integers cannot require a gradient.
    pub fn allows(&self, call: Call) -> bool {
        call != Call::Forward { wants_gradient: true } || self.input[0].is_floating_point()
    }

    /// Creates the input from the same memory. With `wants_gradient`, its first tensor requires
    /// one.
    pub fn input(&self, wants_gradient: bool) -> Vec<Tensor> {
        let leaf = |(index, tensor): (usize, &Tensor)| tensor.detach().set_requires_grad(wants_gradient && index == 0);
        self.input.iter().enumerate().map(leaf).collect()
    }
}

/// Way to train with a mini-batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    /// `forward`, a loss of the joined output, and `backward()`.
    Forward {
        /// Whether the input requires a gradient.
        wants_gradient: bool,
    },
    /// `train_step`.
    Step(ScheduleKind),
}

impl Call {
    /// Schedule that the pipeline is built for.
    pub fn method(self) -> ScheduleKind {
        match self {
            Self::Forward { .. } => ScheduleKind::GPipe,
            Self::Step(method) => method,
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forward { .. } => f.write_str("forward and backward()"),
            Self::Step(method) => method.fmt(f),
        }
    }
}

/// Order in which plain tch runs the micro-batches backward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Order {
    /// One backward of a loss of the joined outputs.
    Joined {
        /// Whether the input requires a gradient.
        wants_gradient: bool,
    },
    /// One backward of the sum of the losses, in which the last micro-batch comes first.
    LastFirst,
    /// A backward for each loss, from the first to the last.
    FirstFirst,
}

impl Order {
    /// Returns the order of a call over `stages` stages, which is the order in all of its lists.
    ///
    /// # Panics
    ///
    /// If the schedule goes through micro-batches in another order than these.
    pub fn of(call: Call, stages: usize, chunks: usize, micro_batches: usize) -> Self {
        let method = match call {
            Call::Forward { wants_gradient } => return Self::Joined { wants_gradient },
            Call::Step(method) => method,
        };
        let lists = lists(method, stages, chunks, micro_batches);
        let backwards = |kind: ActionKind, stage: usize| {
            let actions = lists.actions().filter(move |action| action.kind == kind && action.stage == stage);
            actions.map(|action| action.micro_batch).collect::<Vec<_>>()
        };
        let kinds = [ActionKind::Backward, ActionKind::BackwardInput, ActionKind::BackwardWeight];
        let all = || kinds.into_iter().flat_map(|kind| (0..stages).map(move |stage| backwards(kind, stage)));
        if all().all(|list| list.iter().rev().is_sorted()) {
            return Self::LastFirst;
        }
        assert!(all().all(|list| list.is_sorted()), "{method} goes through micro-batches in no order");
        Self::FirstFirst
    }
}

/// Returns the number of ranks that a method has for `stages` stages on the CPU, and the number of
/// stages per rank.
pub fn ranks(method: ScheduleKind, stages: usize) -> (usize, usize) {
    let per_rank = match method {
        ScheduleKind::GPipe | ScheduleKind::ZbH1 => 1,
        _ => method.stages_per_rank().unwrap_or(2),
    };
    (stages / per_rank, per_rank)
}

/// Returns the action lists of a training step.
fn lists(method: ScheduleKind, stages: usize, chunks: usize, micro_batches: usize) -> Schedule {
    let (ranks, per_rank) = ranks(method, stages);
    let rank_of: Vec<_> = (0..stages).map(|stage| method.rank_of(stage, ranks, per_rank)).collect();
    method.schedule_within(&rank_of, micro_batches, chunks).expect("the pipeline has been built")
}

/// Whether a checkpointed micro-batch is recomputed in a stage. It is not if its backward comes
/// right after its forward, because checkpointing would save nothing.
fn is_recomputed(lists: &Schedule, stage: usize, micro_batch: usize) -> bool {
    let forward = Action::forward(stage, micro_batch);
    let at_once = |pair: &[Action]| {
        let [first, second] = pair else { return false };
        let backward = matches!(second.kind, ActionKind::Backward | ActionKind::BackwardInput);
        *first == forward && backward && (second.stage, second.micro_batch) == (stage, micro_batch)
    };
    !lists.ranks.iter().any(|list| list.windows(2).any(at_once))
}

/// Whether a method can run `chunks` micro-batches through `stages` stages.
pub fn runs(method: ScheduleKind, stages: usize, chunks: usize) -> bool {
    let (ranks, per_rank) = ranks(method, stages);
    stages.is_multiple_of(per_rank) && method.check(ranks, per_rank, chunks).is_ok()
}

/// Everything that a step computes or changes.
#[derive(Debug)]
pub struct Outcome {
    /// The joined output.
    pub output: Tensor,
    /// Losses of the micro-batches, or the single loss of the joined output.
    pub losses: Vec<Tensor>,
    /// Gradient of the input's first tensor.
    pub input: Option<Tensor>,
    /// Gradients of the variables.
    pub gradients: BTreeMap<String, Option<Tensor>>,
    /// Values of the variables.
    pub state: Named,
}

/// A step in plain tch.
#[derive(Debug)]
pub struct Plain {
    /// Outcome of the step.
    pub outcome: Outcome,
    /// Whether a value that a stage sends requires a gradient, by micro-batch and stage.
    pub carries: Vec<Vec<bool>>,
    /// Whether the step has a backward.
    pub trains: bool,
}

/// Runs a step in plain tch, micro-batch by micro-batch, on the same views that the pipeline makes.
/// The twin must have no gradients yet.
pub fn plain<M: ZooModel>(layers: &M::Layers, twin: &mut Twin, batch: &Batch, chunks: usize, order: Order) -> Plain {
    let input = batch.input(order == Order::Joined { wants_gradient: true });
    let parts = |tensor: &Tensor| tensor.chunk(chunks as i64, 0);
    let split: Vec<_> = input.iter().map(parts).collect();
    let targets = parts(&batch.target);
    let (mut outputs, mut losses, mut weighted, mut carries) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (micro_batch, target) in targets.iter().enumerate() {
        let pick = |(index, whole): (usize, &Tensor)| match M::WHOLE.contains(&index) {
            true => whole.shallow_clone(),
            false => split[index][micro_batch].shallow_clone(),
        };
        let micro: Vec<_> = input.iter().enumerate().map(pick).collect();
        let passed = M::plain(layers, twin, &micro, micro_batch);
        if let Order::LastFirst | Order::FirstFirst = order {
            let loss = M::loss(&passed.output, target);
            weighted.push(&loss * (target.size()[0] as f64 / batch.rows() as f64));
            losses.push(loss.detach());
        }
        outputs.push(passed.output);
        carries.push(passed.carries);
    }
    let mut trains = weighted.iter().any(Tensor::requires_grad);
    let output = if outputs.len() == 1 { outputs.remove(0) } else { Tensor::cat(&outputs, 0) };
    match order {
        Order::Joined { .. } => {
            let loss = M::loss(&output, &batch.target);
            // If only leaves that layers create require gradients, `forward` keeps no graph.
            trains = loss.requires_grad() && (input[0].requires_grad() || twin.trains());
            losses.push(loss.detach());
            if trains {
                loss.backward();
            }
        }
        Order::LastFirst if trains => weighted.into_iter().sum::<Tensor>().backward(),
        Order::LastFirst => {}
        Order::FirstFirst => weighted.iter().filter(|loss| loss.requires_grad()).for_each(Tensor::backward),
    }
    let outcome = Outcome {
        output: output.detach(),
        losses,
        input: Some(input[0].grad()).filter(Tensor::defined),
        gradients: twin.gradients(),
        state: twin.state(),
    };
    Plain { outcome, carries, trains }
}

/// What a pipeline keeps of its micro-batches for their backward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mode {
    /// Which micro-batches are checkpointed.
    pub checkpoint: Checkpoint,
    /// What is done with cheap outputs.
    pub cheap: CheapOutputs,
}

impl From<Checkpoint> for Mode {
    fn from(checkpoint: Checkpoint) -> Self {
        Self { checkpoint, cheap: CheapOutputs::Keep }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {:?}", self.checkpoint, self.cheap)
    }
}

/// Whether a stage of a pipeline that is called so recomputes a micro-batch that has a graph. The
/// arguments are the stage and the micro-batch, of `micro_batches`.
pub fn recomputes<M: Watchable>(
    pipe: &Pipe<M>,
    call: Call,
    micro_batches: usize,
) -> impl Fn(usize, usize) -> bool + use<M> {
    let (checkpoint, stages) = (pipe.checkpoint(), M::PLAN.stages.len());
    let lists = match call {
        Call::Forward { .. } => None,
        Call::Step(method) => Some(lists(method, stages, pipe.chunks(), micro_batches)),
    };
    move |stage, micro_batch| {
        let gains = lists.as_ref().is_none_or(|lists| is_recomputed(lists, stage, micro_batch));
        gains && checkpoint.applies(micro_batch, micro_batches)
    }
}

/// The loss of a model, which fails in this micro-batch. `calls` is where its calls are counted.
pub fn failing_loss<M: Watchable>(
    fails: Option<(usize, How)>,
    calls: &mut usize,
) -> impl FnMut(&M::Output, &Tensor) -> Tensor {
    move |output, target| {
        let how = fails.filter(|(micro_batch, _)| *micro_batch == *calls).map(|(_, how)| how);
        how.into_iter().for_each(How::before);
        *calls += 1;
        let mut loss = if how == Some(How::Shape) { M::output(output) - target } else { M::loss(output, target) };
        how.into_iter().for_each(|how| how.after(&mut loss));
        loss
    }
}

/// A built pipeline with a probe.
pub struct Watched<M: Watchable> {
    /// The pipeline.
    pub pipe: Pipe<M>,
    /// The pipeline's variables.
    pub vars: M::Vars,
    /// Probe that watches the layers.
    pub probe: Probe,
    layers: M::Layers,
    call: Call,
}

impl<M: Watchable> Watched<M> {
    /// Builds a pipeline whose variables are initialized from `seed`, and its twin in plain tch.
    ///
    /// # Errors
    ///
    /// Fails when [`PipeBuilder::build`] does.
    pub fn build(
        layers: &M::Layers,
        seed: i64,
        chunks: usize,
        mode: impl Into<Mode>,
        call: Call,
    ) -> Result<(Self, Twin)> {
        let Mode { checkpoint, cheap } = mode.into();
        tch::manual_seed(seed);
        let probe = Probe::default();
        let (model, vars) = M::make(layers, &probe);
        let builder = PipeBuilder::new(model, &vars).chunks(chunks).checkpoint(checkpoint).schedule(call.method());
        let pipe = builder.intra_op_threads(1).cheap_outputs(cheap).build()?;
        let twin = Twin::of(vars.var_store());
        Ok((Self { pipe, vars, probe, layers: layers.clone(), call }, twin))
    }

    /// Trains with a mini-batch. The default generator is seeded with `seed` first.
    ///
    /// # Errors
    ///
    /// Fails when the pipeline does.
    pub fn run(&mut self, batch: &Batch, seed: i64) -> Result<Outcome> {
        tch::manual_seed(seed);
        self.go_on(batch, None)
    }

    /// Trains with a mini-batch, without seeding the default generator. With `loss_fails`, the loss
    /// of this micro-batch fails.
    ///
    /// # Errors
    ///
    /// Fails when the pipeline does.
    pub fn go_on(&mut self, batch: &Batch, loss_fails: Option<(usize, How)>) -> Result<Outcome> {
        self.probe.take();
        let (output, losses, input) = match self.call {
            Call::Forward { wants_gradient } => {
                let input = batch.input(wants_gradient);
                let output = self.pipe.forward(M::input(&input))?;
                let loss = M::loss(&output, &batch.target);
                if loss.requires_grad() {
                    loss.f_backward()?;
                }
                (M::output(&output).detach(), vec![loss.detach()], Some(input[0].grad()).filter(Tensor::defined))
            }
            Call::Step(_) => {
                let mut calls = 0;
                let loss = failing_loss::<M>(loss_fails, &mut calls);
                let report = self.pipe.step().keep_output().run(M::input(&batch.input(false)), &batch.target, loss)?;
                assert_eq!(calls, report.losses.len(), "calls of the loss");
                (M::output(&report.output).shallow_clone(), report.losses, None)
            }
        };
        Ok(Outcome { output, losses, input, gradients: self.gradients(), state: self.state() })
    }

    /// How the pipeline is called.
    pub fn call(&self) -> Call {
        self.call
    }

    /// Copies the gradients of the variables.
    pub fn gradients(&self) -> BTreeMap<String, Option<Tensor>> {
        let found = gradients(&self.vars.var_store().variables().into_iter().collect());
        found.into_iter().map(|(name, gradient)| (name, gradient.map(|gradient| gradient.copy()))).collect()
    }

    /// Copies the values of the variables.
    pub fn state(&self) -> Named {
        self.vars.var_store().variables().into_iter().map(|(name, tensor)| (name, tensor.detach().copy())).collect()
    }

    /// Sets all gradients to zero.
    pub fn zero_gradients(&self) {
        self.vars.var_store().variables().into_values().for_each(|mut tensor| tensor.zero_grad());
    }

    /// Drops all gradients.
    ///
    /// # Errors
    ///
    /// Fails if libtorch does.
    pub fn drop_gradients(&self) -> Result<()> {
        self.pipe.optimizer(Sgd::default()).build()?.zero_grad()
    }

    /// Returns whether a stage recomputes a micro-batch that has a graph. The arguments are the
    /// stage and the micro-batch, of `micro_batches`.
    pub fn recomputes(&self, micro_batches: usize) -> impl Fn(usize, usize) -> bool + use<M> {
        recomputes(&self.pipe, self.call, micro_batches)
    }

    /// Asserts that variables and statistics have these bits.
    pub fn assert_state(&self, expected: &Named, about: &dyn fmt::Display) {
        let found = self.state();
        for (name, value) in expected {
            assert!(same_bits(value, &found[name]), "{name}, {about}");
        }
    }

    /// Asserts that the variables have gradients with these bits.
    pub fn assert_gradients(&self, expected: &BTreeMap<String, Option<Tensor>>, about: &dyn fmt::Display) {
        let found = self.gradients();
        for (name, expected) in expected {
            let same = match (expected, &found[name]) {
                (None, None) => true,
                (Some(expected), Some(found)) => same_bits(expected, found),
                _ => false,
            };
            assert!(same, "the gradient of {name}, {about}");
        }
    }

    /// Asserts that a call with this fault fails and changes neither the variables, nor their
    /// gradients, nor the caller's random number generator.
    pub fn assert_failure_leaves_nothing(&mut self, batch: &Batch, fault: Fault, about: &dyn fmt::Display) {
        let before = (self.state(), self.gradients());
        self.probe.fail(fault);
        let error = self.run(batch, 77).err().unwrap_or_else(|| panic!("{fault:?} did not fail, {about}"));
        self.probe.fail(None);
        assert!(error.to_string().contains(ON_PURPOSE), "{error}, {about}");
        let drawn = Tensor::rand([4], (Kind::Double, tch::Device::Cpu));
        let about = format!("after {fault:?}, {about}");
        self.assert_state(&before.0, &about);
        self.assert_gradients(&before.1, &about);
        // A `forward` without an error has drawn a number, even if its backward fails.
        let kept = matches!(self.call, Call::Forward { .. }) && fault.recomputing;
        tch::manual_seed(77);
        let fresh = Tensor::rand([4], (Kind::Double, tch::Device::Cpu));
        assert!(kept || same_bits(&drawn, &fresh), "the random generator {about}");
    }
}

impl<M: ZooModel> Watched<M> {
    /// Asserts the number of passes of each layer in a step: one per micro-batch, and another one
    /// if the micro-batch is checkpointed in its stage and has a graph.
    pub fn assert_passes(&self, plain: &Plain, about: &dyn fmt::Display) {
        let stages = M::stages(&self.layers);
        let count = plain.carries.len();
        let recomputes = self.recomputes(count);
        let again = |stage: usize| {
            let recomputed = |&(micro_batch, carries): &(usize, &Vec<bool>)| {
                plain.trains && carries[stage] && recomputes(stage, micro_batch)
            };
            plain.carries.iter().enumerate().filter(recomputed).count()
        };
        let found = self.probe.take();
        assert_eq!(found.len(), stages.len());
        for (layer, (found, &stage)) in found.into_iter().zip(&stages).enumerate() {
            // A layer that is marked is recomputed if its gradient arrives, where its stage is not.
            let most = if layer < M::RECOMPUTED { count } else { again(stage) };
            let is_right = found.first == count && (again(stage)..=most).contains(&found.again);
            assert!(is_right, "layer {layer} passes {found:?}, {about}");
        }
    }
}
