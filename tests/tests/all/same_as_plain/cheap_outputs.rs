//! Cheap outputs that the backward makes again: the same bits as kept ones, under autocast too, and
//! the same errors. The zoo compares them under every schedule.

use pipe_runtime::{CheapOutputs, Checkpoint, Context, Devices, Layer, PipeBuilder, ScheduleKind, pipeline};
use pipe_tests::layers::linear;
use tch::nn::{Linear, Path};
use tch::{Device, Kind, Tensor};

const WIDTH: i64 = 16;
const BOTH: [CheapOutputs; 2] = [CheapOutputs::RecomputePointwise, CheapOutputs::RecomputeAll];

/// Computes `[rows, WIDTH]` from that, a weight `[WIDTH, WIDTH]`, a gain `[WIDTH]` and running
/// statistics.
type Body = fn(&Tensor, &Operators) -> Tensor;

struct Operators {
    weight: Tensor,
    gain: Tensor,
    mean: Tensor,
    variance: Tensor,
    body: Body,
}

impl Operators {
    fn new(path: Path<'_>, body: Body) -> Self {
        Self {
            weight: path.randn("weight", &[WIDTH, WIDTH], 0., 0.4),
            gain: path.randn("gain", &[WIDTH], 1., 0.3),
            mean: path.zeros_no_train("mean", &[WIDTH]),
            variance: path.ones_no_train("variance", &[WIDTH]),
            body,
        }
    }

    fn batch_norm(&self, x: &Tensor, training: bool) -> Tensor {
        let [gain, mean, variance] = [&self.gain, &self.mean, &self.variance].map(Some);
        x.batch_norm(gain, Some(&self.gain), mean, variance, training, 0.1, 1e-5, false)
    }
}

impl Layer<Tensor> for Operators {
    type Out = Tensor;

    fn run(&self, x: Tensor, _cx: &Context) -> Tensor {
        // Every body trains with the gain.
        (self.body)(&x, self) + &self.gain
    }
}

#[pipeline(allow(short_skip))]
struct Net {
    #[device("cpu")]
    first: Linear,
    #[stash(skip = output)]
    operators: Operators,
    #[device("cpu")]
    #[pop(skip)]
    join: Join,
    last: Linear,
}

struct Join;

impl Layer<(Tensor, Tensor)> for Join {
    type Out = Tensor;

    fn run(&self, (x, skip): (Tensor, Tensor), _cx: &Context) -> Tensor {
        Tensor::cat(&[x.silu(), skip.gelu("none")], 1).narrow(1, WIDTH / 2, WIDTH)
    }
}

const BODIES: [(&str, Body); 24] = [
    ("kept by several", |x, o| {
        let y = x.matmul(&o.weight).silu();
        y.matmul(&o.weight) + y.tanh() * &y
    }),
    ("parts", |x, o| {
        let y = x.matmul(&o.weight).gelu("none");
        y.narrow(1, 0, 4).matmul(&o.weight.narrow(0, 0, 4)) + y.tr().contiguous().tr().matmul(&o.weight)
    }),
    ("broadcast", |x, o| (x.sigmoid() * &o.gain).matmul(&o.weight) * x.narrow(1, 0, 1).tanh()),
    ("expanded", |x, o| {
        x.silu().unsqueeze(1).expand([-1, 3, -1], false).matmul(&o.weight).sum_dim_intlist(
            [1_i64].as_slice(),
            false,
            Kind::Float,
        )
    }),
    ("a scalar", |x, o| ((x.silu() * 2. + 1.).relu() * 0.5).matmul(&o.weight)),
    ("in place after", |x, o| {
        let mut y = x.matmul(&o.weight).silu();
        let _ = y.g_mul_(&o.gain);
        y.relu_().matmul(&o.weight)
    }),
    ("a view changed in place", |x, o| {
        let y = x.matmul(&o.weight).softplus();
        let _ = y.narrow(1, 0, 3).g_add_(&o.gain.narrow(0, 0, 3));
        y.matmul(&o.weight).tanh()
    }),
    ("dropped and made at the same place", |x, o| {
        let y = x.matmul(&o.weight);
        let first = y.silu().matmul(&o.weight);
        let second = y.elu().matmul(&o.weight);
        (0..4).fold(first + second, |sum, _| sum + y.mish().matmul(&o.weight))
    }),
    ("another kind", |x, o| {
        x.silu().to_kind(Kind::Double).matmul(&o.weight.to_kind(Kind::Double)).to_kind(Kind::Float)
    }),
    ("layer norm", |x, o| x.layer_norm([WIDTH], Some(&o.gain), Some(&o.gain), 1e-5, false).relu().matmul(&o.weight)),
    ("frozen layer norm", |x, o| {
        let gain = o.gain.detach();
        x.layer_norm([WIDTH], Some(&gain), Some(&gain), 1e-5, false).gelu("tanh").matmul(&o.weight)
    }),
    ("group norm", |x, o| x.group_norm(4, Some(&o.gain), Some(&o.gain), 1e-5, false).elu().matmul(&o.weight)),
    ("batch norm", |x, o| o.batch_norm(&x.matmul(&o.weight), true).relu().matmul(&o.weight)),
    ("batch norm in evaluation", |x, o| o.batch_norm(&x.matmul(&o.weight), false).relu().matmul(&o.weight)),
    ("dropout", |x, o| x.silu().dropout(0.3, true).matmul(&o.weight).dropout(0.3, true).tanh()),
    ("images", |x, o| {
        let image = x.matmul(&o.weight).view([-1, 1, 4, 4]).to_memory_format();
        let pooled = image.relu().max_pool2d([2, 2], [2, 2], [0, 0], [1, 1], false).sigmoid();
        (Tensor::cat(&[pooled.upsample_nearest2d([4, 4], 2., 2.), image.tanh()], 1) * &image)
            .sum_dim_intlist([1_i64].as_slice(), false, Kind::Float)
            .flatten(1, -1)
    }),
    ("a buffer that is written through data()", |x, o| {
        let y = (&x.relu() + &o.mean).gelu("none");
        tch::no_grad(|| o.mean.data().copy_(&(&o.mean + 1.)));
        y.matmul(&o.weight)
    }),
    ("a buffer that the next micro-batch writes", |x, o| {
        tch::no_grad(|| o.mean.data().copy_(&(&o.mean + 1.)));
        (&x.relu() + &o.mean).gelu("none").matmul(&o.weight)
    }),
    ("a statistic that is updated after", |x, o| {
        let y = (&x.relu() + &o.mean).gelu("none");
        o.batch_norm(&y, true).matmul(&o.weight)
    }),
    ("an output that is written through data()", |x, o| {
        let y = x.matmul(&o.weight).gelu("none");
        let _ = y.data().clamp_(-0.1, 0.1);
        y.matmul(&o.weight)
    }),
    ("a queue", |x, o| {
        let y = Tensor::cat(&[&x.relu(), &o.mean.unsqueeze(0)], 0).gelu("none").matmul(&o.weight);
        tch::no_grad(|| o.mean.shallow_clone().copy_(&x.select(0, 0)));
        y.narrow(0, 0, x.size()[0]) + y.select(0, -1)
    }),
    ("what two inputs are made of, again and again", |x, o| {
        let mask = x.detach().gt(0.).to_kind(Kind::Float) * 0.1;
        (0..60).fold(x.sigmoid(), |y, _| &y * &mask + &y).matmul(&o.weight)
    }),
    ("a long chain", |x, o| (0..500).fold(x.sigmoid(), |y, _| (&y * 0.9).tanh() + &y * 0.05).matmul(&o.weight)),
    ("a gradient taken inside", |x, o| {
        let y = x.detach().set_requires_grad(true);
        let energy = tch::with_grad(|| y.matmul(&o.weight).silu().tanh().sum(Kind::Float));
        let slope = tch::with_grad(|| Tensor::run_backward(&[energy], &[&y], true, true).remove(0));
        x.silu() * slope.silu()
    }),
];

/// Images with their channels last.
trait ChannelsLast {
    fn to_memory_format(&self) -> Tensor;
}

impl ChannelsLast for Tensor {
    fn to_memory_format(&self) -> Tensor {
        self.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
    }
}

/// How a step is run.
#[derive(Clone, Copy, Debug)]
enum How {
    Step(ScheduleKind),
    /// `forward`, and two backwards of the same graph.
    Twice,
}

fn make(body: Body) -> (Net, NetVars) {
    let vars = Net::vars(&Devices::cpu(2)).unwrap();
    let net = Net {
        first: linear(vars.first(), WIDTH, WIDTH),
        operators: Operators::new(vars.operators(), body),
        join: Join,
        last: linear(vars.last(), WIDTH, 3),
    };
    (net, vars)
}

/// The gradients and the statistics after a step.
fn train(body: Body, outputs: CheapOutputs, checkpoint: Checkpoint, how: How) -> Vec<Tensor> {
    tch::manual_seed(5);
    let (net, vars) = make(body);
    let x = Tensor::randn([8, WIDTH], (Kind::Float, Device::Cpu));
    let schedule = if let How::Step(kind) = how { kind } else { ScheduleKind::GPipe };
    let builder = PipeBuilder::new(net, &vars).chunks(4).checkpoint(checkpoint).schedule(schedule);
    let mut pipe = builder.intra_op_threads(1).cheap_outputs(outputs).build().unwrap();
    let loss = |output: &Tensor| output.to_kind(Kind::Float).square().mean(Kind::Float);
    match how {
        How::Step(_) => drop(pipe.train_step(&x, (), |output: &Tensor, ()| loss(output)).unwrap()),
        How::Twice => {
            let loss = loss(&pipe.forward(&x).unwrap());
            let parameters = vars.var_store().trainable_variables();
            let first = Tensor::run_backward(&[&loss], &parameters, true, false);
            let second = Tensor::run_backward(&[&loss], &parameters, false, false);
            return first.into_iter().chain(second).collect();
        }
    }
    let gradients = vars.var_store().trainable_variables().into_iter().map(|variable| variable.grad());
    let net = pipe.into_inner();
    gradients.chain([net.operators.mean.copy(), net.operators.variance.copy()]).collect()
}

#[test]
fn what_is_made_again_has_the_same_bits() {
    let _serial = pipe_tests::serial();
    let steps = [ScheduleKind::GPipe, ScheduleKind::OneFOneB, ScheduleKind::ZbH1].map(How::Step);
    for (name, body) in BODIES {
        for how in steps.into_iter().chain([How::Twice]) {
            for checkpoint in [Checkpoint::Never, Checkpoint::ExceptLast] {
                let kept = train(body, CheapOutputs::Keep, checkpoint, how);
                assert!(kept.iter().all(|tensor| tensor.defined()), "{name}");
                for outputs in BOTH {
                    let again = train(body, outputs, checkpoint, how);
                    assert_eq!(again, kept, "{name}, {how:?}, {checkpoint}, {outputs:?}");
                }
            }
        }
    }
}

#[test]
fn what_autocast_converts_has_the_same_bits() {
    let _serial = pipe_tests::serial();
    for (name, body) in BODIES.into_iter().filter(|(name, _)| *name != "another kind") {
        let step = |outputs| {
            let train = || train(body, outputs, Checkpoint::Never, How::Step(ScheduleKind::OneFOneB));
            pipe_runtime::autocast(Device::Cpu, Kind::BFloat16, train).unwrap()
        };
        let kept = step(CheapOutputs::Keep);
        for outputs in BOTH {
            assert_eq!(step(outputs), kept, "{name}, {outputs:?}");
        }
    }
}

/// libtorch does not check tensors that hooks have saved for changes in place; ours are checked.
#[test]
fn what_was_changed_in_place_is_an_error() {
    let _serial = pipe_tests::serial();
    let changes: [(&str, Body); 3] = [
        ("the input of an activation", |x, o| {
            let mut y = x.matmul(&o.weight);
            let z = y.silu().matmul(&o.weight);
            let _ = y.g_add_scalar_(1.);
            z
        }),
        ("a saved output", |x, o| {
            let mut y = x.matmul(&o.weight).sigmoid();
            let z = y.matmul(&o.weight);
            let _ = y.g_add_scalar_(1.);
            z
        }),
        ("a factor", |x, o| {
            let mut y = x.matmul(&o.weight);
            let z = &y * x;
            let _ = y.g_add_scalar_(1.);
            z
        }),
    ];
    for (name, body) in changes {
        for outputs in [CheapOutputs::Keep, CheapOutputs::RecomputePointwise, CheapOutputs::RecomputeAll] {
            let (net, vars) = make(body);
            let builder = PipeBuilder::new(net, &vars).chunks(2).checkpoint(Checkpoint::Never);
            let mut pipe = builder.cheap_outputs(outputs).build().unwrap();
            let x = Tensor::randn([8, WIDTH], (Kind::Float, Device::Cpu));
            let error = pipe.train_step(&x, (), |output: &Tensor, ()| output.square().mean(Kind::Float));
            let error = error.expect_err(name).to_string();
            assert!(error.contains("modified by an inplace operation"), "{name}, {outputs:?}: {error}");
        }
    }
}
