//! Measures a model layer by layer, unpipelined, and leaves no trace in it.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::{Duration, Instant};

use pipe_schedule::support::median;
use tch::{Device, Kind, TchError, Tensor};

use super::traffic::LayerKey;
use crate::error::{Error, Failure, Phase, Result};
use crate::flow::{PackedTensor, PackedValue};
use crate::model::{Context, Layer, Model, Observer, Pass, unique};
use crate::torch::{
    BackwardClock, EnteredModes, GradMode, Kept, LayerRng, Modes, Observation, Read, panic_message, sequence_number,
    synchronize, without_stack,
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
    /// The interquartile range of forward and backward together.
    pub(super) spread: Vec<f64>,
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
            _restored: restored,
            _rng: LayerRng::enter()?,
            _grad: GradMode::set(true),
            _modes: modes,
        })
    }

    /// Observes one forward, after another one that is not observed, so that what libraries set up
    /// at their first use does not count as an activation.
    pub(super) fn observe(&self) -> Result<Observed> {
        self.forward(None)?;
        let watch = Rc::new(Watch { observation: Observation::start(self.device())?, layers: RefCell::default() });
        let outputs = self.forward(Some(watch.clone()))?;
        let layers = watch.layers.take();
        // The output has passed through the last layer.
        watch.observation.turn_to(layers.len().checked_sub(1));
        outputs.iter().try_for_each(|output| watch.observation.read(output))?;
        // Whoever gets it keeps it, or its gradient: a user after all layers.
        watch.observation.turn_to(Some(layers.len()));
        outputs.iter().try_for_each(|output| watch.observation.read(output))?;
        let kept = watch.observation.kept(layers.len())?;
        let mut reads = watch.observation.reads()?;
        reads.retain(|read| (read.to.unsigned_abs() as usize) < layers.len());
        Ok(Observed { layers, kept, reads })
    }

    /// Runs forwards and backwards until `timeout` has passed, after a first one that does not
    /// count.
    pub(super) fn time(&self, timeout: Duration) -> Result<Measured> {
        self.pass()?;
        let begun = Instant::now();
        let mut passes = Vec::new();
        while passes.len() < LEAST_PASSES || (passes.len() < MOST_PASSES && begun.elapsed() < timeout) {
            passes.push(self.pass()?);
        }
        let of_layers = |value: fn(&[f64]) -> f64, time: fn(&Times, usize) -> f64| {
            let times = |layer| passes.iter().map(|pass| time(pass, layer)).collect::<Vec<_>>();
            (0..passes[0].forward.len()).map(|layer| value(&times(layer))).collect()
        };
        let forward = of_layers(median, |pass, layer| pass.forward[layer]);
        let backward = of_layers(median, |pass, layer| pass.backward[layer]);
        let spread = of_layers(between_quartiles, |pass, layer| pass.forward[layer] + pass.backward[layer]);
        Ok(Measured { passes: passes.len(), medians: Times { forward, backward }, spread })
    }

    fn pass(&self) -> Result<Times> {
        let watch = Rc::new(Stopwatch { on: self.device().shallow_clone(), laps: RefCell::default() });
        let mut roots = self.forward(Some(watch.clone()))?;
        let laps = watch.laps.take();
        roots.retain(Tensor::requires_grad);
        let backward = match roots.is_empty() || self.leaves.is_empty() {
            true => vec![0.; laps.len()],
            false => {
                let nodes: Vec<_> = laps.iter().map(|lap| lap.nodes.clone()).collect();
                let clock = BackwardClock::start(self.device(), &nodes)?;
                // Kept until the clock stops, so that freeing them is not measured.
                let _gradients = Tensor::f_run_backward(&roots, &self.leaves, false, false).map_err(|error| {
                    let cause = without_stack(&error.to_string());
                    failure(Phase::Backward, String::new(), cause)
                })?;
                clock.stop()?
            }
        };
        Ok(Times { forward: laps.iter().map(|lap| lap.seconds).collect(), backward })
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
        let outcome = catch_unwind(AssertUnwindSafe(|| PackedValue::of(self.model.run(input.unpack(), &cx))));
        match outcome {
            Ok(output) => Ok(output.tensors.into_iter().map(|item| item.tensor).collect()),
            Err(panic) => Err(failure(Phase::Forward, cx.path(), panic_message(panic.as_ref()))),
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
}

impl Observer for Watch {
    fn starts(&self, name: &'static str, index: Option<usize>) {
        let mut layers = self.layers.borrow_mut();
        self.observation.turn_to(Some(layers.len()));
        layers.push(LayerKey { name, index });
    }

    fn ends(&self) {
        self.observation.turn_to(None);
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
