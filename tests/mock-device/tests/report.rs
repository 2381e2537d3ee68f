//! A pipeline reports the numbers of the accelerators' allocators.

use std::time::Duration;

use pipe_mock_device::{devices, log, violations};
use pipe_runtime::balance::Balance;
use pipe_runtime::{CheapOutputs, Checkpoint, Context, Devices, Layer, Replicate, ScheduleKind, Tied, pipeline};
use tch::nn::{self, Linear};
use tch::{Device, Kind, Tensor};

#[pipeline(chunks = 4)]
struct Net {
    #[device("cuda:0")]
    first: Linear,
    #[device("cuda:1")]
    second: Linear,
    third: Linear,
}

/// Bytes of a layer's parameters: 64 x 64 weights and 64 biases of 4 bytes.
const LAYER: u64 = (64 * 64 + 64) * 4;

#[test]
fn the_report_tells_what_each_device_holds_now_and_at_most() {
    let Some(_alone) = devices() else { return };
    let places = Devices::new([Device::Cuda(0), Device::Cuda(1)]);
    let vars = Net::vars(&places).unwrap();
    let linear = |path| nn::linear(path, 64, 64, Default::default());
    let net = Net { first: linear(vars.first()), second: linear(vars.second()), third: linear(vars.third()) };
    let mut pipe = net.pipe(&vars).checkpoint(Checkpoint::Never).build().unwrap();

    pipe.reset_peaks().unwrap();
    let before = pipe.memory().unwrap();
    let devices: Vec<_> = before.devices.iter().map(|memory| memory.device).collect();
    assert_eq!(devices, [Device::Cuda(0), Device::Cuda(1)]);
    let [first, second] = [&before.devices[0], &before.devices[1]];
    assert!(first.allocated >= LAYER && second.allocated >= 2 * LAYER, "{before:?}");
    assert_eq!(first.peak_allocated, first.allocated, "{before:?}");

    let x = Tensor::rand([32, 64], (Kind::Float, Device::Cuda(0)));
    let report = pipe.train_step(&x, (), |output: &Tensor, ()| output.square().mean(Kind::Float)).unwrap();
    let after = pipe.memory().unwrap();
    for (memory, (before, layers)) in after.devices.iter().zip(before.devices.iter().zip([1, 2])) {
        // The gradients remain. The activations are freed, but count for the peak.
        assert!(memory.allocated >= before.allocated + layers * LAYER, "{after:?}");
        assert!(memory.peak_allocated > memory.allocated, "{after:?}");
        assert!(memory.peak_reserved >= memory.peak_allocated, "{after:?}");
    }
    assert_eq!(after.to_string().lines().count(), 2, "{after}");
    assert!(after.to_string().starts_with("cuda:0: "), "{after}");
    drop(report);
}

/// Saves eight tensors as large as its input.
struct Deep(Linear);

impl Layer<Tensor> for Deep {
    type Out = Tensor;

    fn run(&self, x: Tensor, _cx: &Context) -> Tensor {
        (0..8).fold(x.apply(&self.0), |x, _| x.sigmoid())
    }
}

/// Defines the same model of one stage, with its layers kept or recomputed.
macro_rules! deep {
    ($name:ident, $vars:ident $(, #[$mark:meta])?) => {
        #[pipeline(chunks = 4, checkpoint = never, allow(single_stage))]
        struct $name {
            #[device("cuda:0")]
            first: Linear,
            #[repeat]
            $(#[$mark])?
            deep: [Deep; 4],
        }

        impl $name {
            fn new(device: Device) -> (Self, $vars) {
                let vars = $name::vars(&Devices::new([device])).unwrap();
                let linear = |path| nn::linear(path, 64, 64, Default::default());
                (Self { first: linear(vars.first()), deep: vars.deep().map(|path| Deep(linear(path))) }, vars)
            }

            /// What a step holds at most beyond what is there before it.
            fn peak() -> u64 {
                let (net, vars) = Self::new(Device::Cuda(0));
                let mut pipe = net.pipe(&vars).build().unwrap();
                let x = batch(Device::Cuda(0));
                pipe.reset_peaks().unwrap();
                let before = pipe.memory().unwrap().devices[0].allocated;
                pipe.train_step(&x, (), |output: &Tensor, ()| output.square().mean(Kind::Float)).unwrap();
                pipe.memory().unwrap().devices[0].peak_allocated - before
            }
        }
    };
}

fn batch(device: Device) -> Tensor {
    Tensor::rand([512, 64], (Kind::Float, device))
}

deep!(Kept, KeptVars);
deep!(Recomputed, RecomputedVars, #[recompute]);
deep!(Half, HalfVars, #[recompute(2)]);

#[test]
fn what_is_recomputed_is_not_kept() {
    let Some(_alone) = devices() else { return };
    let (kept, half, recomputed) = (Kept::peak(), Half::peak(), Recomputed::peak());
    // Four micro-batches of four layers: eight tensors of each are kept, or one.
    let tensor = 128 * 64 * 4;
    assert!(kept > 4 * 4 * 8 * tensor, "{kept}");
    assert!(recomputed < 4 * 4 * tensor + 3 * 8 * tensor, "{recomputed}");
    assert!((recomputed + kept) * 2 / 5 < half && half < (recomputed + kept) * 3 / 5, "{kept} {half} {recomputed}");
}

type Operator = fn(&Tensor) -> Tensor;

/// A linear layer on what a cheap operator makes of the output of another linear layer, which the
/// operator keeps.
struct Around {
    inner: Linear,
    outer: Linear,
    cheap: Operator,
}

impl Layer<Tensor> for Around {
    type Out = Tensor;

    fn run(&self, x: Tensor, _cx: &Context) -> Tensor {
        let kept = x.apply(&self.inner);
        (self.cheap)(&kept).apply(&self.outer)
    }
}

#[pipeline(chunks = 4, checkpoint = never, allow(single_stage))]
struct Cheap {
    #[device("cuda:0")]
    layer: Around,
}

/// The operators whose outputs are made again, of tensors [128, 64].
const POINTWISE: [(&str, Operator); 12] = [
    ("gelu", |x| x.gelu("none")),
    ("silu", Tensor::silu),
    ("elu", Tensor::elu),
    ("softplus", Tensor::softplus),
    ("mish", Tensor::mish),
    ("hardswish", Tensor::hardswish),
    ("leaky_relu", Tensor::leaky_relu),
    ("a chain", |x| x.gelu("none").relu().sigmoid().tanh()),
    ("a product", |x| x.silu() * x),
    ("a sum", |x| x.silu() + x.elu()),
    ("a copy", |x| x.silu().transpose(0, 1).contiguous().transpose(0, 1)),
    ("another kind", |x| x.silu().to_kind(Kind::Double).to_kind(Kind::Float)),
];
const OTHERS: [(&str, Operator); 6] = [
    ("layer norm", |x| x.layer_norm([64], None::<&Tensor>, None::<&Tensor>, 1e-5, true)),
    ("group norm", |x| x.group_norm(8, None::<&Tensor>, None::<&Tensor>, 1e-5, true)),
    ("batch norm", |x| {
        let none = None::<&Tensor>;
        x.batch_norm(none, none, none, none, true, 0.1, 1e-5, true)
    }),
    ("concatenation", |x| Tensor::cat(&[x.silu().narrow(1, 0, 32), x.elu().narrow(1, 0, 32)], 1)),
    ("upsampling", |x| x.view([1, 128, 8, 8]).upsample_nearest2d([16, 16], 2., 2.).narrow(2, 0, 4).reshape([128, 64])),
    ("pooling", |x| x.view([1, 128, 8, 8]).max_pool2d([3, 3], [1, 1], [1, 1], [1, 1], false).reshape([128, 64])),
];

#[test]
fn what_is_cheap_to_make_again_is_not_kept() {
    let Some(_alone) = devices() else { return };
    let peak = |cheap: Operator, outputs| {
        let vars = Cheap::vars(&Devices::new([Device::Cuda(0)])).unwrap();
        let linear = |name| nn::linear(vars.layer() / name, 64, 64, Default::default());
        let net = Cheap { layer: Around { inner: linear("inner"), outer: linear("outer"), cheap } };
        let mut pipe = net.pipe(&vars).cheap_outputs(outputs).build().unwrap();
        let x = batch(Device::Cuda(0));
        pipe.reset_peaks().unwrap();
        let before = pipe.memory().unwrap().devices[0].allocated;
        pipe.train_step(&x, (), |output: &Tensor, ()| output.square().mean(Kind::Float)).unwrap();
        pipe.memory().unwrap().devices[0].peak_allocated - before
    };
    // All micro-batches are in flight when the first backward makes its output again.
    let tensor = 128 * 64 * 4;
    let both = [CheapOutputs::RecomputePointwise, CheapOutputs::RecomputeAll];
    for ((name, cheap), outputs) in
        POINTWISE.map(|case| (case, &both[..])).into_iter().chain(OTHERS.map(|case| (case, &both[1..])))
    {
        let kept = peak(cheap, CheapOutputs::Keep);
        for outputs in outputs {
            let recomputed = peak(cheap, *outputs);
            assert!(recomputed + 3 * tensor <= kept, "{name}, {outputs:?}: {recomputed} of {kept}");
        }
    }
}

/// What a balance says that a step holds is what it holds: with nothing recomputed, and with the
/// layers that it chooses for a limit.
#[test]
fn a_balance_foresees_the_memory_of_a_step() {
    let Some(_alone) = devices() else { return };
    // The mock's allocator has no profiler: what is measured is measured on the CPU.
    let (net, vars) = Kept::new(Device::Cpu);
    // The gradients are new in a step; the parameters were there.
    let balance = |limit| {
        let balance = Balance::of(&net, &vars).timeout(Duration::ZERO).param_scale(1.).memory_limit(limit);
        balance.recompute(ScheduleKind::GPipe).by_time(batch(Device::Cpu))
    };
    let foreseen = |limit: u64, recomputed: usize| {
        let profile = balance(limit).unwrap();
        let chosen: Vec<_> = profile.layers().iter().filter(|layer| layer.recomputed).map(|layer| layer.name).collect();
        assert_eq!(chosen, vec!["deep"; recomputed]);
        let bytes = profile.stages()[0].memory_bytes;
        assert!(bytes <= limit);
        bytes
    };
    let all = foreseen(u64::MAX, 0);
    let profile = balance(u64::MAX).unwrap();
    let layer = &profile.layers()[1];
    let freed = layer.activation_bytes - layer.recomputed_bytes;
    // Four micro-batches free it, and one makes it again.
    let limit = |count: u64| all - (4 * count - 1) * freed + freed / 2;
    let foreseen = [all, foreseen(limit(2), 2), foreseen(limit(4), 4)];
    let measured = [Kept::peak(), Half::peak(), Recomputed::peak()];
    // A balance does not count the gradients on their way. It counts the inside that is made again
    // beside all that is kept, of which later layers have gone.
    let tensor = 128. * 64. * 4.;
    for (foreseen, measured) in foreseen.into_iter().zip(measured) {
        let more = (measured as f64 - foreseen as f64) / tensor;
        assert!(more.abs() < 5., "{foreseen} {measured}: {more} tensors");
    }
    let least = balance(foreseen[2] / 2).unwrap_err().to_string();
    assert!(
        least.contains("no partition keeps every stage within") && least.contains("the best of 1 stages take"),
        "{least}"
    );
}

/// Bytes of a large table.
const TABLE: u64 = 2048 * 64 * 4;

/// Goes on with the first input.
struct First(Linear);

impl Layer<(Tensor, Replicate<Tensor>)> for First {
    type Out = Tensor;

    fn run(&self, (x, _): (Tensor, Replicate<Tensor>), _cx: &Context) -> Tensor {
        x.apply(&self.0)
    }
}

impl Tied for First {
    type Value = Tensor;

    fn tied(&self) -> Tensor {
        self.0.ws.shallow_clone()
    }
}

/// Reads a weight and a table, and may change its handle of the table in place.
struct Reads {
    in_place: bool,
}

impl Layer<(Tensor, Tensor, Replicate<Tensor>)> for Reads {
    type Out = Tensor;

    fn run(&self, (x, weight, Replicate(mut table)): (Tensor, Tensor, Replicate<Tensor>), _cx: &Context) -> Tensor {
        if !self.in_place {
            return x.matmul(&weight).matmul(&table.tr());
        }
        let x = x.matmul(&weight).matmul(&table.copy().tr());
        let _ = table.fill_(0.);
        x
    }
}

#[pipeline(input = (Tensor, Replicate<Tensor>), chunks = 4, checkpoint = never, allow(single_reader))]
struct Lends {
    #[device("cuda:0")]
    #[lend(weight = tied, table = input.1)]
    first: First,
    #[device("cuda:1")]
    #[read(weight, table)]
    second: Reads,
}

/// A training step: its loss, the gradient of the lent weight, and what the second device held at
/// most beyond what was there before.
fn step_that_lends(in_place: bool) -> (f64, Tensor, u64) {
    tch::manual_seed(1);
    let vars = Lends::vars(&Devices::new([Device::Cuda(0), Device::Cuda(1)])).unwrap();
    let first = nn::linear(vars.first(), 64, 2048, Default::default());
    let mut pipe = Lends { first: First(first), second: Reads { in_place } }.pipe(&vars).build().unwrap();
    let (x, table) = (
        Tensor::ones([32, 64], (Kind::Float, Device::Cuda(0))),
        Tensor::ones([2048, 64], (Kind::Float, Device::Cuda(0))),
    );
    pipe.reset_peaks().unwrap();
    let (before, from) = (pipe.memory().unwrap().devices[1].allocated, log(0).len());
    let report =
        pipe.train_step((x, Replicate(table)), (), |output: &Tensor, ()| output.square().mean(Kind::Float)).unwrap();
    let peak = pipe.memory().unwrap().devices[1].peak_allocated - before;
    assert_eq!(violations(&log(from)), Vec::<String>::new());
    let weight = vars.var_store().variables().remove("first.weight").unwrap();
    (f64::try_from(&report.loss).unwrap(), weight.grad().to_device(Device::Cpu), peak)
}

/// Also if a layer has changed its copy, the next micro-batch gets what was lent.
#[test]
fn what_all_micro_batches_get_is_copied_once() {
    let Some(_alone) = devices() else { return };
    let (loss, gradient, peak) = step_that_lends(false);
    // Copies of the weight and the table, and gradients of the weight. With a copy for each
    // micro-batch, it was 9 tables.
    assert!(peak < 7 * TABLE, "{peak}");
    let (changed_loss, changed_gradient, _) = step_that_lends(true);
    assert!(changed_loss == loss && changed_gradient.equal(&gradient), "{changed_loss} {loss}");
    assert!(loss > 0. && f64::try_from(gradient.abs().max()).unwrap() > 0.);
}
