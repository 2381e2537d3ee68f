//! Measures a model layer by layer, unpipelined, and leaves no trace in it.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

use pipe_schedule::support::median;
use tch::{Device, Kind, TchError, Tensor};

use super::report::LayerProfile;
use super::traffic::LayerKey;
use crate::error::{Error, Failure, Phase, Result};
use crate::flow::{PackedTensor, PackedValue};
use crate::model::{CheapOutputs, Context, Layer, Model, Observer, Pass, unique};
use crate::torch::{
    BackwardClock, EnteredModes, GradMode, Kept, LayerRng, Modes, Observation, Peaks, Read, SavingPass, caught,
    sequence_number, synchronize, without_stack,
};

/// The least number of passes for a meaningful median.
const LEAST_PASSES: usize = 3;
/// The greatest number of passes; more do not improve a median.
const MOST_PASSES: usize = 1000;

/// What was observed in one forward.
#[derive(Debug)]
pub(super) struct Observed {
    pub(super) layers: Vec<LayerKey>,
    /// What each layer keeps.
    pub(super) kept: Vec<Kept>,
    pub(super) reads: Vec<Read>,
}

/// The memory of a forward and its backward, in bytes.
#[derive(Debug)]
pub(super) struct ObservedMemory {
    /// What was in use before the first layer.
    pub(super) before: i64,
    /// What was in use between forward and backward.
    pub(super) between: i64,
    /// The part of it that is the model's output.
    pub(super) output: i64,
    /// The most that was in use while each layer ran.
    pub(super) peaks: Vec<Peaks>,
}

/// Times in seconds, by layer.
#[derive(Debug)]
pub(super) struct Times {
    pub(super) forward: Vec<f64>,
    pub(super) backward: Vec<f64>,
}

/// Times of several passes in seconds, by layer.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) passes: usize,
    pub(super) medians: Times,
    /// The time of each layer's backward for its inputs alone, if that was asked for.
    pub(super) backward_input: Option<Vec<f64>>,
    /// The interquartile range of forward and backward together.
    pub(super) spread: Vec<f64>,
}

/// The times of passes.
#[derive(Debug, Default)]
pub(super) struct Passes {
    whole: Vec<Times>,
    /// Those whose backward computed no gradients of parameters.
    for_inputs: Vec<Times>,
}

impl Passes {
    /// The medians.
    pub(super) fn measured(&self) -> Measured {
        let backward = |pass: &Times, layer: usize| pass.backward[layer];
        let whole = |pass: &Times, layer: usize| pass.forward[layer] + pass.backward[layer];
        Measured {
            passes: self.whole.len(),
            medians: Times {
                forward: of_layers(&self.whole, median, |pass, layer| pass.forward[layer]),
                backward: of_layers(&self.whole, median, backward),
            },
            backward_input: (!self.for_inputs.is_empty()).then(|| of_layers(&self.for_inputs, median, backward)),
            spread: of_layers(&self.whole, between_quartiles, whole),
        }
    }
}

/// A number of each layer, from its times in all passes.
fn of_layers(passes: &[Times], value: fn(&[f64]) -> f64, time: impl Fn(&Times, usize) -> f64) -> Vec<f64> {
    let times = |layer| passes.iter().map(|pass| time(pass, layer)).collect::<Vec<_>>();
    let layers = passes.first().map_or(0, |pass| pass.forward.len());
    (0..layers).map(|layer| value(&times(layer))).collect()
}

impl Measured {
    /// Tells the layers their times.
    pub(super) fn tell(&self, layers: &mut [LayerProfile]) {
        for (index, layer) in layers.iter_mut().enumerate() {
            layer.forward = Duration::from_secs_f64(self.medians.forward[index]);
            layer.backward = Duration::from_secs_f64(self.medians.backward[index]);
            layer.spread = Duration::from_secs_f64(self.spread[index]);
        }
    }
}

/// Runs a model on one micro-batch any number of times. While this exists, the thread's grad mode,
/// autocast cache and random numbers are those of a pipelined training step. When it is dropped,
/// everything is restored, including the model's variables.
pub(super) struct Bench<'m, M> {
    model: &'m M,
    sample: PackedValue,
    /// A tensor on the measured device; the sample may have no tensor there.
    device: Tensor,
    /// The tensors to compute gradients for. The gradients are returned, not accumulated.
    leaves: Vec<Tensor>,
    calls: Cell<u64>,
    /// What is done with cheap outputs.
    cheap_outputs: Cell<CheapOutputs>,
    _restored: Restored,
    _rng: LayerRng,
    _grad: GradMode,
    _modes: EnteredModes,
}

impl<'m, M> Bench<'m, M>
where
    M: Model + Layer<M::Input, Out = M::Output>,
{
    /// Makes a bench that restores `variables` and computes gradients for `trained`.
    pub(super) fn new(
        model: &'m M,
        sample: &PackedValue,
        device: Device,
        variables: Vec<Tensor>,
        trained: Vec<Tensor>,
    ) -> Result<Self> {
        let restored = Restored::new(variables)?;
        let modes = Modes::capture()?.enter()?;
        let detached = |item: &PackedTensor| {
            let tensor = item.tensor.f_detach()?.f_to_device(device)?;
            Ok(PackedTensor::new(tensor.f_set_requires_grad(item.needs_gradient)?, item))
        };
        let tensors = sample.tensors.iter().map(detached).collect::<Result<Vec<_>, TchError>>()?;
        let wanted = tensors.iter().filter(|item| item.needs_gradient).map(|item| item.tensor.shallow_clone());
        Ok(Self {
            model,
            leaves: trained.into_iter().chain(wanted).collect(),
            sample: PackedValue { tensors, plain: sample.plain.clone(), ready: None },
            device: Tensor::f_empty([0], (Kind::Float, device))?,
            calls: Cell::default(),
            cheap_outputs: Cell::default(),
            _restored: restored,
            _rng: LayerRng::enter()?,
            _grad: GradMode::set(true),
            _modes: modes,
        })
    }

    /// Sets what later forwards do with cheap outputs.
    pub(super) fn cheap_outputs(&self, outputs: CheapOutputs) {
        self.cheap_outputs.set(outputs);
    }

    /// Observes one forward, after another one that is not observed, so that what libraries set up
    /// at their first use does not count as an activation.
    pub(super) fn observe(&self) -> Result<Observed> {
        self.forward(None)?;
        Ok(self.observe_forward()?.0)
    }

    /// Observes one forward and its backward, after another pass that is not observed.
    pub(super) fn observe_pass(&self) -> Result<(Observed, ObservedMemory)> {
        self.pass(&self.leaves)?;
        let (observed, watch, mut roots) = self.observe_forward()?;
        let bytes = |output: &Tensor| (output.numel() * output.kind().elt_size_in_bytes()) as i64;
        let output = roots.iter().map(bytes).sum();
        let between = watch.observation.in_use();
        roots.retain(Tensor::requires_grad);
        self.backward(&roots, &self.leaves, &watch.nodes.take())?;
        let peaks = watch.observation.peaks(observed.layers.len())?;
        Ok((observed, ObservedMemory { before: watch.before.get(), between, output, peaks }))
    }

    fn observe_forward(&self) -> Result<(Observed, Rc<Watch>, Vec<Tensor>)> {
        let watch = Rc::new(Watch {
            observation: Observation::start(self.device())?,
            layers: RefCell::default(),
            nodes: RefCell::default(),
            before: Cell::default(),
        });
        let outputs = self.forward(Some(watch.clone()))?;
        let layers = watch.layers.take();
        // The output has passed through the last layer.
        watch.observation.turn_to(layers.len().checked_sub(1));
        outputs.iter().try_for_each(|output| watch.observation.read(output))?;
        // Whoever gets it keeps it, or its gradient: a user after all layers.
        watch.observation.turn_to(Some(layers.len()));
        outputs.iter().try_for_each(|output| watch.observation.read(output))?;
        watch.observation.turn_to(None);
        let kept = watch.observation.kept(layers.len())?;
        let mut reads = watch.observation.reads()?;
        reads.retain(|read| (read.to.unsigned_abs() as usize) < layers.len());
        Ok((Observed { layers, kept, reads }, watch, outputs))
    }

    /// Runs forwards and backwards until `timeout` has passed, after a first one that does not
    /// count, and adds them to `passes`. With `first`, a trained tensor of the first layer that has
    /// some, it also measures backwards to it alone: they leave out the gradients of all later
    /// parameters.
    pub(super) fn time(&self, timeout: Duration, first: Option<&Tensor>, passes: &mut Passes) -> Result<()> {
        self.pass(&self.leaves)?;
        let first = first.map(|first| [first.shallow_clone()]);
        let begun = Instant::now();
        for count in 0..MOST_PASSES {
            if count >= LEAST_PASSES && begun.elapsed() >= timeout {
                break;
            }
            passes.whole.push(self.pass(&self.leaves)?);
            if let Some(first) = &first {
                passes.for_inputs.push(self.pass(first)?);
            }
        }
        Ok(())
    }

    /// Runs a forward and the backward to these tensors.
    fn pass(&self, leaves: &[Tensor]) -> Result<Times> {
        let watch = Rc::new(Stopwatch { on: self.device().shallow_clone(), laps: RefCell::default() });
        let mut roots = self.forward(Some(watch.clone()))?;
        let laps = watch.laps.take();
        roots.retain(Tensor::requires_grad);
        let nodes: Vec<_> = laps.iter().map(|lap| lap.nodes.clone()).collect();
        let backward = self.backward(&roots, leaves, &nodes)?;
        Ok(Times { forward: laps.iter().map(|lap| lap.seconds).collect(), backward })
    }

    /// Runs the backward to `leaves`, and returns how long it worked for each layer, which made
    /// these nodes.
    fn backward(&self, roots: &[Tensor], leaves: &[Tensor], nodes: &[Range<u64>]) -> Result<Vec<f64>> {
        if roots.is_empty() || leaves.is_empty() {
            return Ok(vec![0.; nodes.len()]);
        }
        let clock = BackwardClock::start(self.device(), nodes)?;
        // Kept until the clock stops, so that freeing them is not measured.
        let _gradients = Tensor::f_run_backward(roots, leaves, false, false).map_err(|error| {
            let cause = without_stack(&error.to_string());
            failure(Phase::Backward, String::new(), cause)
        })?;
        Ok(clock.stop()?)
    }

    /// Runs the model in training mode and returns the tensors of its output.
    fn forward(&self, observer: Option<Rc<dyn Observer>>) -> Result<Vec<Tensor>> {
        // A layer may change its input in place, so each pass gets a copy.
        let fresh = |item: &PackedTensor| {
            let mut copy = item.tensor.f_empty_like()?;
            copy.f_copy_(&item.tensor)?;
            Ok(PackedTensor::new(copy, item))
        };
        let tensors = self.sample.tensors.iter().map(fresh).collect::<Result<_, TchError>>()?;
        let input = PackedValue { tensors, plain: self.sample.plain.clone(), ready: None };

        let call_seed = self.calls.replace(self.calls.get() + 1);
        let pass = Pass {
            training: true,
            recomputing: false,
            stage: 0,
            micro_batch: 0,
            micro_batches: 1,
            before: 0,
            call_seed,
            call: unique(),
            will_be_recomputed: false,
        };
        let cx = Context::new(pass);
        let cx = match observer {
            Some(observer) => cx.observed(observer),
            None => cx,
        };
        let _saving = SavingPass::start(self.cheap_outputs.get(), false)?;
        match caught(|| PackedValue::of(self.model.run(input.unpack(), &cx))) {
            Ok(output) => Ok(output.tensors.into_iter().map(|item| item.tensor).collect()),
            Err(message) => Err(failure(Phase::Forward, cx.path(), message)),
        }
    }

    /// A tensor on the measured device.
    fn device(&self) -> &Tensor {
        &self.device
    }
}

/// The interquartile range.
fn between_quartiles(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let quarter = values.len() / 4;
    values[values.len() - 1 - quarter] - values[quarter]
}

fn failure(phase: Phase, layer: String, cause: String) -> Error {
    Failure { phase, stage: 0, layer, micro_batch: 0, cause }.into()
}

/// Notifies the observation which layer is running.
#[derive(Debug)]
struct Watch {
    observation: Observation,
    layers: RefCell<Vec<LayerKey>>,
    /// The autograd nodes that each layer makes.
    nodes: RefCell<Vec<Range<u64>>>,
    /// The memory in use before the first layer.
    before: Cell<i64>,
}

impl Observer for Watch {
    fn starts(&self, name: &'static str, index: Option<usize>) {
        let mut layers = self.layers.borrow_mut();
        if layers.is_empty() {
            self.before.set(self.observation.in_use());
        }
        self.observation.turn_to(Some(layers.len()));
        layers.push(LayerKey { name, index });
        let node = sequence_number();
        self.nodes.borrow_mut().push(node..node);
    }

    fn ends(&self) {
        self.observation.turn_to(None);
        if let Some(nodes) = self.nodes.borrow_mut().last_mut() {
            nodes.end = sequence_number();
        }
    }
}

/// Records how long each layer's forward takes, and which autograd nodes it makes.
#[derive(Debug)]
struct Stopwatch {
    /// A tensor on the measured device.
    on: Tensor,
    laps: RefCell<Vec<Lap>>,
}

#[derive(Debug)]
struct Lap {
    started: Instant,
    seconds: f64,
    nodes: Range<u64>,
}

impl Stopwatch {
    fn now(&self) -> Instant {
        // Called while the layer is still running, so that errors that an accelerator reports late
        // are caught as the layer's failure.
        synchronize(&self.on).unwrap_or_else(|error| panic!("{error}"));
        Instant::now()
    }
}

impl Observer for Stopwatch {
    fn starts(&self, _name: &'static str, _index: Option<usize>) {
        let node = sequence_number();
        self.laps.borrow_mut().push(Lap { started: self.now(), seconds: 0., nodes: node..node });
    }

    fn ends(&self) {
        let now = self.now();
        if let Some(lap) = self.laps.borrow_mut().last_mut() {
            lap.seconds = now.duration_since(lap.started).as_secs_f64();
            lap.nodes.end = sequence_number();
        }
    }
}

/// Restores variables when dropped, from copies in host memory, because the device may have no room
/// for copies.
struct Restored(Vec<(Tensor, Tensor)>);

impl Restored {
    fn new(variables: Vec<Tensor>) -> Result<Self> {
        let _constant = GradMode::set(false);
        let saved = |variable: Tensor| {
            let copy = variable.f_to_device_(Device::Cpu, variable.f_kind()?, false, true)?;
            Ok((variable, copy))
        };
        Ok(Self(variables.into_iter().map(saved).collect::<Result<_, TchError>>()?))
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        let _constant = GradMode::set(false);
        for (variable, saved) in &self.0 {
            // Through `data`, so that the caller's graphs that saved the variable see no change. It
            // can fail only if libtorch itself is broken.
            let _ = variable.f_data().and_then(|mut data| data.f_copy_(saved));
        }
    }
}
