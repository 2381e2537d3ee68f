//! The ways to run a model.

use std::cell::{RefCell, RefMut};
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::ValueEnum;
use pipe_runtime::optim::AdamW;
use pipe_runtime::{PipeBuilder, Unpipelined, World};
use tch::nn::{self, OptimizerConfig, VarStore};
use tch::{Device, Kind, Tensor};

use crate::models::{RANKS, Subject, Task, run_plain};
use crate::op_times::Stages;
use crate::traced::{Traced, Training, schedule};
use crate::{Args, Cut, values};

/// A way to run a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Way {
    /// `forward`, a loss, `backward()`
    ForwardBackward,
    /// `train_step`, which does not keep the output
    TrainStep,
    /// The same step with the output kept
    TrainStepOutput,
    /// A whole training iteration: removes the gradients, `train_step`, clipping by norm, AdamW
    Iteration,
    /// The same with tch's optimizer
    IterationTch,
    /// Clipping and AdamW alone, always on the same gradients
    Update,
    /// The same with tch's optimizer
    UpdateTch,
    /// Unpipelined, micro-batch after micro-batch
    Unpipelined,
    /// Plain tch, with the whole mini-batch at once
    Plain,
    /// The forward of plain tch, with its graph
    PlainForward,
    /// The simulated makespan of the schedule, from op times that are measured while all stages are
    /// busy
    Simulated,
    /// The makespan if all stages took the same time, from the same op times
    Bound,
}

/// The duration and the loss of a step.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub milliseconds: f64,
    pub loss: f64,
}

/// A model that is ready to run.
pub struct Contender {
    step: Box<dyn FnMut() -> Result<Step>>,
    /// The variables whose gradients the other contenders have too.
    variables: Vec<Tensor>,
    /// Removes the gradients between steps, as torch's optimizers do, so that the next step makes
    /// new ones. A whole iteration does that itself.
    optimizer: Option<nn::Optimizer>,
    /// The same pipeline, if its training steps can be traced.
    traced: Option<Rc<RefCell<dyn Traced>>>,
}

impl Contender {
    /// Makes a contender whose `step` is timed.
    fn timed(store: &VarStore, mut step: impl FnMut() -> Result<Tensor> + 'static) -> Result<Self> {
        Self::new(store, move || {
            let start = Instant::now();
            let loss = step()?;
            let milliseconds = start.elapsed().as_secs_f64() * 1e3;
            Ok(Step { milliseconds, loss: loss.try_into()? })
        })
    }

    fn new(store: &VarStore, step: impl FnMut() -> Result<Step> + 'static) -> Result<Self> {
        let optimizer = Some(nn::Sgd::default().build(store, 0.)?);
        Ok(Self { step: Box::new(step), variables: store.trainable_variables(), optimizer, traced: None })
    }

    /// Runs a step, after removing the gradients of the previous one.
    pub fn step(&mut self) -> Result<Step> {
        self.remove_gradients();
        (self.step)()
    }

    /// The pipeline, to trace a training step, after removing the gradients of the previous one.
    pub fn traced(&mut self) -> Result<RefMut<'_, dyn Traced>> {
        self.remove_gradients();
        Ok(self.traced.as_ref().context("only `--way train-step` is traced")?.borrow_mut())
    }

    fn remove_gradients(&mut self) {
        if let Some(optimizer) = &mut self.optimizer {
            optimizer.zero_grad();
        }
    }

    /// Runs the steps of a check: one, or as many iterations as show that all train alike. Returns
    /// the last loss, and the norm of all gradients or, after iterations, of all parameters; NaN if
    /// there are none.
    pub fn check(&mut self) -> Result<(f64, f64)> {
        if self.optimizer.is_some() {
            return Ok((self.step()?.loss, self.gradient_norm()?));
        }
        let mut loss = f64::NAN;
        for _ in 0..CHECKED_ITERATIONS {
            loss = self.step()?.loss;
        }
        let squares =
            self.variables.iter().map(|tensor| tensor.detach().to_kind(Kind::Double).square().sum(Kind::Double));
        Ok((loss, squares.sum::<Tensor>().sqrt().try_into()?))
    }

    fn gradient_norm(&self) -> Result<f64> {
        // Each process has the gradients of its own stages.
        let gradients = self.variables.iter().map(Tensor::grad).filter(Tensor::defined);
        let squares = gradients.map(|gradient| gradient.to_kind(Kind::Double).square().sum(Kind::Double));
        let squares: Vec<f64> = squares.map(f64::try_from).collect::<Result<_, _>>()?;
        let own = squares.len().to_le_bytes().into_iter().chain(squares.iter().sum::<f64>().to_le_bytes());
        let (mut gradients, mut sum) = (0, 0.);
        for told in World::init()?.all_gather(&own.collect::<Vec<_>>())? {
            let (count, squares) = told.split_at(size_of::<usize>());
            gradients += usize::from_le_bytes(count.try_into()?);
            sum += f64::from_le_bytes(squares.try_into()?);
        }
        Ok(if gradients == self.variables.len() && gradients > 0 { sum.sqrt() } else { f64::NAN })
    }
}

/// Makes the model, its weights and data, and whatever the way needs.
pub fn contender<S: Subject>(args: &Args) -> Result<Contender> {
    match args.way {
        Way::Plain | Way::PlainForward | Way::Simulated | Way::Bound => plain::<S>(args),
        Way::ForwardBackward | Way::TrainStep | Way::TrainStepOutput | Way::Unpipelined => pipelined::<S>(args),
        Way::Iteration | Way::IterationTch | Way::Update | Way::UpdateTch => trained::<S>(args),
    }
}

/// The number of iterations after which all contenders must have the same loss and parameters.
const CHECKED_ITERATIONS: usize = 20;

/// The settings of all optimizers. The peers have the same in `xtask/bench/contender.py`.
const LR: f64 = 1e-3;
const WEIGHT_DECAY: f64 = 0.01;
const CLIP: f64 = 1.;

/// Makes the settings of the arguments, or leaves those of the balance file.
fn set<'v, S: Subject>(builder: PipeBuilder<'v, S>, args: &Args) -> Result<PipeBuilder<'v, S>> {
    let builder = builder.intra_op_threads(1).fuse_gradient_accumulation(true);
    if args.cut == Cut::Advised {
        return Ok(builder.ranks(RANKS));
    }
    let builder = match args.ranks {
        Some(ranks) => builder.ranks(ranks),
        None => builder,
    };
    let builder = builder.chunks(args.chunks).checkpoint(args.checkpoint).schedule(schedule(args)?);
    Ok(builder.cheap_outputs(args.cheap_outputs.into()))
}

fn trained<S: Subject>(args: &Args) -> Result<Contender> {
    let Task { input, target, loss } = S::task(args);
    let (model, vars) = S::make(args)?;
    values::set(vars.var_store())?;
    let mut pipe = set(PipeBuilder::new(model, &vars), args)?.build()?;
    let mut ours =
        pipe.optimizer(AdamW { lr: LR, weight_decay: WEIGHT_DECAY, ..AdamW::default() }).clip_norm(CLIP).build()?;
    let mut tchs = nn::AdamW { wd: WEIGHT_DECAY, ..nn::AdamW::default() }.build(vars.var_store(), LR)?;
    let way = args.way;
    let steps = matches!(way, Way::Iteration | Way::IterationTch);
    if !steps {
        pipe.train_step(&input, &target, loss)?;
    }
    let iteration = move || {
        let mut value = Tensor::from(0.);
        if steps {
            match way {
                Way::Iteration => ours.zero_grad()?,
                _ => tchs.zero_grad(),
            }
            value = pipe.train_step(&input, &target, loss)?.loss;
        }
        match way {
            Way::Iteration | Way::Update => {
                ours.step()?;
            }
            _ => {
                tchs.clip_grad_norm(CLIP);
                tchs.step();
            }
        }
        Ok(value)
    };
    Ok(Contender { optimizer: None, ..Contender::timed(vars.var_store(), iteration)? })
}

fn pipelined<S: Subject>(args: &Args) -> Result<Contender> {
    let Task { input, target, loss } = S::task(args);
    let (model, vars) = S::make(args)?;
    values::set(vars.var_store())?;
    if args.way == Way::Unpipelined {
        let chunks = args.chunks;
        return Contender::timed(vars.var_store(), move || {
            let loss = loss(&Unpipelined::new(&model).chunks(chunks).forward(&input)?, &target);
            loss.f_backward()?;
            Ok(loss)
        });
    }
    let mut pipe = set(PipeBuilder::new(model, &vars), args)?.build()?;
    match args.way {
        Way::TrainStep => {
            let training = Rc::new(RefCell::new(Training { pipe, task: Task { input, target, loss } }));
            let stepped = Rc::clone(&training);
            let contender = Contender::timed(vars.var_store(), move || stepped.borrow_mut().step())?;
            Ok(Contender { traced: Some(training), ..contender })
        }
        Way::TrainStepOutput => {
            Contender::timed(vars.var_store(), move || Ok(pipe.step().keep_output().run(&input, &target, loss)?.loss))
        }
        _ => Contender::timed(vars.var_store(), move || {
            let loss = loss(&pipe.forward(&input)?, &target);
            loss.f_backward()?;
            Ok(loss)
        }),
    }
}

fn plain<S: Subject>(args: &Args) -> Result<Contender> {
    let (way, method, chunks) = (args.way, args.schedule, args.chunks);
    let task = S::task(args);
    let store = VarStore::new(Device::Cpu);
    let stages = S::plain(args, &store);
    values::set(&store)?;
    if matches!(way, Way::Plain | Way::PlainForward) {
        let Task { input, target, loss } = task;
        return Contender::timed(&store, move || {
            let loss = loss(&run_plain(&stages, &input), &target);
            if way == Way::Plain {
                loss.f_backward()?;
            }
            Ok(loss)
        });
    }
    let loss = (task.loss)(&run_plain(&stages, &task.input), &task.target).try_into()?;
    let mut stages = Stages::new(stages, &task, chunks);
    let step = move || {
        let times = stages.measure()?;
        let milliseconds = match way {
            Way::Bound => times.bound(chunks),
            _ => times.makespan(method, chunks)?,
        };
        Ok(Step { milliseconds, loss })
    };
    // The gradients come from one micro-batch that is used again and again, so they cannot be
    // compared with those of other contenders.
    Ok(Contender { variables: Vec::new(), ..Contender::new(&store, step)? })
}
