//! Random numbers depend only on the call, the layer's path and the micro-batch.

use pipe_runtime::{Checkpoint, Context, Devices, Layer, pipeline};
use pipe_tests::compare::leaf;
use pipe_tests::layers::{dropout, linear};
use tch::nn::{self, FuncT, Linear, RNN};
use tch::{Device, Kind, Tensor};

/// Defines a model with the same layers in one, two or four stages.
macro_rules! partitioned {
    ($name:ident, $vars:ident, [$($a:tt)*], [$($b:tt)*], [$($c:tt)*]) => {
        #[pipeline(chunks = 3, allow(single_stage))]
        struct $name {
            #[device("cpu")]
            first: Linear,
            drop: FuncT<'static>,
            $($a)*
            noise: Draws,
            $($b)*
            #[repeat]
            drops: [FuncT<'static>; 2],
            $($c)*
            last: Linear,
            end: FuncT<'static>,
        }

        impl $name {
            /// Runs a step from a fixed seed, and returns its output and gradients.
            fn step(checkpoint: Checkpoint) -> (Tensor, Vec<Tensor>) {
                tch::manual_seed(5);
                let vars = $name::vars(&Devices::cpu($name::STAGES)).unwrap();
                let model = $name {
                    first: linear(vars.first(), 8, 8),
                    drop: dropout(0.3),
                    noise: Draws::new(vars.noise()),
                    drops: [dropout(0.3), dropout(0.3)],
                    last: linear(vars.last(), 8, 8),
                    end: dropout(0.3),
                };
                let x = leaf(8);
                let mut pipe = model.pipe(&vars).checkpoint(checkpoint).intra_op_threads(1).build().unwrap();
                let y = pipe.forward(&x).unwrap();
                y.square().sum(Kind::Float).backward();
                let gradients = vars.var_store().trainable_variables().iter().chain([&x]).map(Tensor::grad).collect();
                (y.detach(), gradients)
            }
        }
    };
}

partitioned!(One, OneVars, [], [], []);
partitioned!(Two, TwoVars, [], [#[device("cpu")]], []);
partitioned!(Four, FourVars, [#[device("cpu")]], [#[device("cpu")]], [#[device("cpu")]]);

/// A layer that draws random numbers in many ways: by operators with and without a generator
/// argument, in place, and in torch's own layers.
#[derive(Debug)]
struct Draws {
    lstm: nn::LSTM,
}

impl Draws {
    fn new(path: nn::Path<'_>) -> Self {
        let config = nn::RNNConfig { num_layers: 2, dropout: 0.4, ..Default::default() };
        Self { lstm: nn::lstm(path.sub("lstm"), 4, 4, config) }
    }
}

impl Layer<Tensor> for Draws {
    type Out = Tensor;

    fn run(&self, x: Tensor, cx: &Context) -> Tensor {
        let (kind, device) = (x.kind(), x.device());
        let sequence = x.view([-1, 2, 4]);
        let (recurrent, _) = self.lstm.seq(&sequence);
        let attended = Tensor::scaled_dot_product_attention::<Tensor>(
            &sequence, &sequence, &sequence, None, 0.3, false, None, false,
        );
        let x = x + recurrent.reshape([-1, 8]) + attended.reshape([-1, 8]);
        let x = x.alpha_dropout(0.2, cx.is_training()).feature_dropout(0.2, cx.is_training());
        let x = &x + Tensor::randn([8], (kind, device)) + Tensor::rand([8], (kind, device)) + x.rand_like();
        let x = &x + Tensor::randint(5, [8], (kind, device)) + x.zeros_like().exponential_(2.);
        let x = &x
            + x.zeros_like().uniform_(0., 1.)
            + x.zeros_like().bernoulli_float_(0.5)
            + x.zeros_like().normal_(0., 1.);
        let order = Tensor::randperm(8, (Kind::Int64, device));
        let picked =
            x.softmax(-1, Kind::Float).multinomial(3, true).to_kind(Kind::Float).sum_dim_intlist(-1, true, kind);
        x.index_select(1, &order) + picked
    }
}

#[test]
fn the_same_for_every_partitioning_and_checkpoint_mode() {
    let _serial = pipe_tests::serial();
    let expected = One::step(Checkpoint::Never);
    for mode in [Checkpoint::Never, Checkpoint::ExceptLast, Checkpoint::Always] {
        for (name, found) in [("1", One::step(mode)), ("2", Two::step(mode)), ("4", Four::step(mode))] {
            assert_eq!(found, expected, "{name} stages, {mode}");
        }
    }
}

#[pipeline(chunks = 2)]
struct Masks {
    #[device("cpu")]
    #[stash(a = output)]
    first: FuncT<'static>,
    second: FuncT<'static>,
    #[device("cpu")]
    third: Nested,
    #[pop(a)]
    pair: Pair,
}

/// A block with the same layer type as its model.
#[pipeline]
struct Nested {
    first: FuncT<'static>,
}

#[derive(Debug)]
struct Pair;

impl Layer<(Tensor, Tensor)> for Pair {
    type Out = Tensor;

    fn run(&self, (x, a): (Tensor, Tensor), _cx: &Context) -> Tensor {
        Tensor::cat(&[a, x], 1)
    }
}

fn masks() -> Tensor {
    let vars = Masks::vars(&Devices::cpu(2)).unwrap();
    let keep_two = || nn::func_t(|x: &Tensor, _| x + x.rand_like());
    let model = Masks { first: keep_two(), second: keep_two(), third: Nested { first: keep_two() }, pair: Pair };
    let mut pipe = model.pipe(&vars).build().unwrap();
    pipe.forward(Tensor::zeros([4, 3], (Kind::Double, Device::Cpu))).unwrap()
}

#[test]
fn layers_and_micro_batches_and_calls_differ_and_the_seed_fixes_them() {
    let _serial = pipe_tests::serial();
    tch::manual_seed(9);
    let (one, two) = (masks(), masks());
    tch::manual_seed(9);
    assert_eq!(masks(), one);
    assert_ne!(one, two);
    // There are two micro-batches of two rows, and all values differ.
    let mut values: Vec<f64> = Vec::try_from(one.view(-1)).unwrap();
    values.sort_by(f64::total_cmp);
    assert!(values.windows(2).all(|pair| pair[0] != pair[1]));
}

#[test]
fn the_callers_generator_gives_one_number_per_call_whatever_the_layers_draw() {
    let _serial = pipe_tests::serial();
    let next = |calls: usize| {
        tch::manual_seed(11);
        for _ in 0..calls {
            let _ = masks();
        }
        f64::try_from(Tensor::rand([1], (Kind::Double, Device::Cpu))).unwrap()
    };
    let draws = |numbers: i64| {
        tch::manual_seed(11);
        let _ = Tensor::empty([numbers], (Kind::Int64, Device::Cpu)).random_();
        f64::try_from(Tensor::rand([1], (Kind::Double, Device::Cpu))).unwrap()
    };
    assert_eq!((next(0), next(1), next(2)), (draws(0), draws(1), draws(2)));
}
