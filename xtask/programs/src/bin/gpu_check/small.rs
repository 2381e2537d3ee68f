//! The model that the checks run. It has four stages, one skip to the next stage and one across
//! several, and dropout.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use pipe_runtime::nn::{Add, Concat};
use pipe_runtime::{Checkpoint, Devices, Pipe, ScheduleKind, pipeline};
use tch::nn::{self, Func, FuncT, Linear};
use tch::{Device, Kind, Tensor};

pub const STAGES: usize = Small::STAGES;
const WIDTH: i64 = 64;
const ROWS: i64 = 30;

#[pipeline(chunks = 4, allow(short_skip))]
pub struct Small {
    #[device("cpu")]
    #[stash(far = output)]
    first: Linear,
    rough1: FuncT<'static>,
    #[device("cpu")]
    drop: FuncT<'static>,
    #[stash(near = output)]
    second: Linear,
    rough2: FuncT<'static>,
    #[device("cpu")]
    #[pop(near)]
    add: Add,
    tanh: Func<'static>,
    third: Linear,
    rough3: FuncT<'static>,
    #[device("cpu")]
    #[pop(far)]
    concat: Concat,
    last: Linear,
}

/// The settings of a step.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub places: [Device; STAGES],
    pub mode: Checkpoint,
    pub method: ScheduleKind,
    /// Whether there is dropout. Its masks depend on the kind of device.
    pub dropout: bool,
    /// Whether there are random delays, and memory full of NaN, between the layers.
    pub rough: bool,
    /// Whether the step runs under autocast to half precision.
    pub autocast: bool,
}

impl Setup {
    pub fn new(places: [Device; STAGES], mode: Checkpoint, method: ScheduleKind) -> Self {
        Self { places, mode, method, dropout: false, rough: false, autocast: false }
    }

    /// Runs `body` under autocast if this setup asks for it.
    fn cast<T>(self, body: impl FnOnce() -> T) -> Result<T> {
        Ok(if self.autocast { pipe_runtime::autocast(self.places[0], Kind::Half, body)? } else { body() })
    }
}

/// The loss, the output and the gradients of one step, on the CPU.
pub type Found = Vec<Tensor>;

/// Runs a step as a pipeline. Returns `None` if these stages cannot run this schedule.
pub fn pipelined(setup: Setup) -> Result<Option<Found>> {
    let (model, vars) = make(setup)?;
    let built = model.pipe(&vars).checkpoint(setup.mode).schedule(setup.method).build();
    let Ok(mut pipe) = built else { return Ok(None) };
    step(&mut pipe, &vars, setup).map(Some)
}

/// Runs one training step of an existing pipeline.
pub fn step(pipe: &mut Pipe<Small>, vars: &SmallVars, setup: Setup) -> Result<Found> {
    for mut variable in vars.var_store().trainable_variables() {
        variable.zero_grad();
    }
    tch::manual_seed(7);
    let (x, y) = batch(setup.places[0], setup.places[STAGES - 1]);
    let report = setup.cast(|| pipe.step().keep_output().run(&x, &y, loss))??;
    Ok(collect(report.loss, report.output, vars))
}

/// Runs the same step of the same model unpipelined, on the first stage's device, where all stages
/// must be.
pub fn unpipelined(setup: Setup) -> Result<Found> {
    let (model, vars) = make(setup)?;
    tch::manual_seed(7);
    let (x, y) = batch(setup.places[0], setup.places[0]);
    let (output, value) = setup.cast(|| {
        let output = model.unpipelined().forward(&x)?;
        let value = loss(&output, &y);
        anyhow::Ok((output, value))
    })??;
    value.backward();
    Ok(collect(value.detach(), output.detach(), &vars))
}

pub fn make(setup: Setup) -> Result<(Small, SmallVars)> {
    let vars = Small::vars(&Devices::new(setup.places))?;
    let linear = |path, inputs| nn::linear(path, inputs, WIDTH, Default::default());
    let p = if setup.dropout { 0.3 } else { 0. };
    let model = Small {
        first: linear(vars.first(), WIDTH),
        rough1: roughness(setup.rough),
        drop: nn::func_t(move |x, training| x.dropout(p, training)),
        second: linear(vars.second(), WIDTH),
        rough2: roughness(setup.rough),
        add: Add,
        tanh: nn::func(Tensor::tanh),
        third: linear(vars.third(), WIDTH),
        rough3: roughness(setup.rough),
        concat: Concat::default(),
        last: linear(vars.last(), 2 * WIDTH),
    };
    // The weights are drawn on the CPU, so that they are the same wherever the stages are.
    tch::manual_seed(5);
    let mut variables: Vec<_> = vars.var_store().variables().into_iter().collect();
    variables.sort_by(|(a, _), (b, _)| a.cmp(b));
    tch::no_grad(|| {
        for (_, variable) in &mut variables {
            variable.copy_(&(Tensor::rand(variable.size(), (Kind::Float, Device::Cpu)) * 0.4 - 0.2));
        }
    });
    Ok((model, vars))
}

fn batch(first: Device, last: Device) -> (Tensor, Tensor) {
    let draw = || Tensor::randn([ROWS, WIDTH], (Kind::Float, Device::Cpu));
    (draw().to_device(first), draw().to_device(last))
}

fn loss(output: &Tensor, target: &Tensor) -> Tensor {
    output.mse_loss(target, tch::Reduction::Mean)
}

fn collect(loss: Tensor, output: Tensor, vars: &SmallVars) -> Found {
    let mut named: Vec<_> = vars.var_store().variables().into_iter().collect();
    named.sort_by(|(a, _), (b, _)| a.cmp(b));
    let gradients = named.iter().map(|(_, variable)| variable.grad());
    [loss, output].into_iter().chain(gradients).map(|tensor| tensor.to_device(Device::Cpu)).collect()
}

/// The identity. On an accelerator, it first keeps the device stream busy for a random time, and
/// leaves NaN in memory that was free. Work that reads memory too early, or after it was given to
/// other work, gets other numbers.
fn roughness(rough: bool) -> FuncT<'static> {
    let drawn = Arc::new(AtomicU64::new(1));
    nn::func_t(move |x, _| {
        if rough && x.device() != Device::Cpu {
            tch::no_grad(|| {
                // It is random, too, which thread draws which number.
                let number =
                    drawn.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 60;
                let mut busy = Tensor::ones([256, 256], (Kind::Float, x.device()));
                for _ in 0..number {
                    busy = busy.matmul(&busy) * 0.;
                }
                for _ in 0..4 {
                    let _poison = x.full_like(f64::NAN);
                }
            });
        }
        x.shallow_clone()
    })
}

/// The largest difference, relative to the size of the expected values. It is infinite if a value
/// is not a number, or has another kind.
pub fn distance(found: &Found, expected: &Found) -> f64 {
    let of = |(found, expected): (&Tensor, &Tensor)| {
        if found.kind() != expected.kind() {
            return f64::INFINITY;
        }
        let norm = |tensor: &Tensor| tensor.to_kind(Kind::Double).norm().double_value(&[]);
        let distance = norm(&(found - expected)) / norm(expected).max(1e-12);
        if distance.is_nan() { f64::INFINITY } else { distance }
    };
    found.iter().zip(expected).map(of).fold(0., f64::max)
}
