//! A pipelined step has the same outputs, gradients of inputs and parameters, and statistics as the
//! unpipelined step, bit by bit. There is a struct for each form of pipeline, which is tested with
//! random batch sizes, chunks, checkpoint modes, and on fewer devices than annotated.

use pipe_runtime::{Checkpoint, Context, Devices, Layer, Replicate, pipeline};
use pipe_tests::compare::{Case, Settings, assert_transparent, leaf, rows};
use pipe_tests::layers::{Fork, Merge, Merge4, MergeSome, Mixed, Sometimes, Split, Stir, Unite, dropout, func, linear};
use proptest::prelude::*;
use tch::nn::{self, BatchNorm, Func, FuncT, Linear};
use tch::{Kind, Tensor};

/// Implements [`Case`]. Without more arguments, input and output are one tensor.
macro_rules! case {
    ($model:ident, $vars:ident, |$path:ident| $fields:tt) => {
        case!($model, $vars, |$path| $fields, |n| {
            let x = leaf(n);
            (x.shallow_clone(), vec![x])
        }, |y| vec![y]);
    };
    ($model:ident, $vars:ident, |$path:ident| $fields:tt, |$rows:ident| $input:expr, |$output:pat_param| $tensors:expr) => {
        impl Case for $model {
            type Vars = $vars;

            fn make(stages: usize) -> (Self, $vars) {
                let $path = $model::vars(&Devices::cpu(stages)).unwrap();
                let model = $model $fields;
                (model, $path)
            }

            fn input($rows: i64) -> (Self::Input, Vec<Tensor>) {
                $input
            }

            fn tensors($output: Self::Output) -> Vec<Tensor> {
                $tensors
            }
        }
    };
}

/// Defines a property test for each model, in all modes or in those that the model allows.
macro_rules! transparent {
    ($($name:ident: $model:ident),* $(,)?) => {
        proptest! {
            #![proptest_config(config())]
            $(
                #[test]
                fn $name(settings in settings()) {
                    assert_transparent::<$model>(settings);
                }
            )*
        }
    };
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() }
}

fn settings() -> impl Strategy<Value = Settings> {
    let checkpoint = prop_oneof![Just(Checkpoint::Always), Just(Checkpoint::ExceptLast), Just(Checkpoint::Never)];
    let merged = prop_oneof![Just(1.), 0.01..1.];
    (2..13_i64, 1..7_usize, checkpoint, 0..1000_i64, prop::bool::weighted(0.8), merged).prop_map(
        |(rows, chunks, checkpoint, seed, training, merged)| Settings {
            rows,
            chunks,
            checkpoint,
            seed,
            training,
            merged,
        },
    )
}

#[pipeline(allow(single_stage))]
struct OneStage {
    #[device("cpu")]
    first: Linear,
    drop: FuncT<'static>,
    last: Linear,
}

case!(OneStage, OneStageVars, |vars| {
    first: linear(vars.first(), 8, 8),
    drop: dropout(0.4),
    last: linear(vars.last(), 8, 3),
});

#[pipeline]
struct SkipsInside {
    #[device("cpu")]
    #[stash(early = output)]
    first: Linear,
    second: Linear,
    #[pop(early)]
    #[stash(late = input)]
    merge: Merge,
    #[device("cpu")]
    third: Linear,
    #[pop(late)]
    merge_again: Merge,
}

case!(SkipsInside, SkipsInsideVars, |vars| {
    first: linear(vars.first(), 8, 8),
    second: linear(vars.second(), 8, 8),
    merge: Merge,
    third: linear(vars.third(), 8, 8),
    merge_again: Merge,
});

#[pipeline]
struct NestedFarSkips {
    #[device("cpu")]
    #[stash(outer = output)]
    first: Linear,
    #[device("cpu")]
    #[stash(inner = output)]
    second: Linear,
    drop: FuncT<'static>,
    #[device("cpu")]
    third: Linear,
    #[device("cpu")]
    #[pop(inner)]
    merge_inner: Merge,
    #[device("cpu")]
    fourth: Linear,
    #[device("cpu")]
    #[pop(outer)]
    merge_outer: Merge,
}

case!(NestedFarSkips, NestedFarSkipsVars, |vars| {
    first: linear(vars.first(), 8, 8),
    second: linear(vars.second(), 8, 8),
    drop: dropout(0.5),
    third: linear(vars.third(), 8, 8),
    merge_inner: Merge,
    fourth: linear(vars.fourth(), 8, 8),
    merge_outer: Merge,
});

#[pipeline]
struct CrossingSkips {
    #[device("cpu")]
    #[stash(a = output)]
    first: Linear,
    #[device("cpu")]
    #[stash(b = output)]
    second: Linear,
    #[device("cpu")]
    #[pop(a)]
    merge_a: Merge,
    third: Linear,
    #[device("cpu")]
    #[pop(b)]
    merge_b: Merge,
}

case!(CrossingSkips, CrossingSkipsVars, |vars| {
    first: linear(vars.first(), 8, 8),
    second: linear(vars.second(), 8, 8),
    merge_a: Merge,
    third: linear(vars.third(), 8, 8),
    merge_b: Merge,
});

/// Several skips of one layer, some of which are the same tensor. They are popped together, in
/// another order.
#[pipeline(allow(short_skip))]
struct SeveralSkips {
    #[device("cpu")]
    #[stash(relu_in = input)]
    first: Linear,
    #[device("cpu")]
    #[stash(a, b, c = output, d = output, e = output)]
    fork: Fork,
    #[device("cpu")]
    #[pop(e)]
    merge_e: Merge,
    #[pop(d, b, a, relu_in)]
    merge_four: Merge4,
    #[device("cpu")]
    #[pop(c)]
    merge_c: Merge,
}

case!(SeveralSkips, SeveralSkipsVars, |vars| {
    first: linear(vars.first(), 8, 8),
    fork: Fork(linear(vars.fork(), 8, 8)),
    merge_e: Merge,
    merge_four: Merge4,
    merge_c: Merge,
});

#[pipeline]
struct ConditionalSkip {
    #[device("cpu")]
    #[stash(maybe)]
    first: Sometimes,
    #[device("cpu")]
    second: Linear,
    #[device("cpu")]
    #[pop(maybe)]
    merge: MergeSome,
}

case!(ConditionalSkip, ConditionalSkipVars, |vars| {
    first: Sometimes(linear(vars.first(), 8, 8)),
    second: linear(vars.second(), 8, 8),
    merge: MergeSome,
});

#[pipeline]
struct TupleSkip {
    #[device("cpu")]
    #[stash(all = output)]
    split: Split,
    stir: Stir,
    unite: Unite,
    #[device("cpu")]
    middle: Linear,
    #[device("cpu")]
    #[pop(all)]
    merge: MergeMixed,
}

struct MergeMixed;

impl Layer<(Tensor, Mixed)> for MergeMixed {
    type Out = Tensor;

    fn run(&self, (x, mixed): (Tensor, Mixed), cx: &Context) -> Tensor {
        x + Unite.run(mixed, cx)
    }
}

case!(TupleSkip, TupleSkipVars, |vars| {
    split: Split(linear(vars.split(), 8, 8)),
    stir: Stir(linear(vars.stir(), 8, 8)),
    unite: Unite,
    middle: linear(vars.middle(), 8, 8),
    merge: MergeMixed,
});

/// Tuples, arrays, `Vec`s, integers and plain values between layers and across stages.
#[pipeline]
struct MixedFlow {
    #[device("cpu")]
    split: Split,
    #[device("cpu")]
    stir: Stir,
    #[device("cpu")]
    stir_again: Stir,
    unite: Unite,
}

case!(MixedFlow, MixedFlowVars, |vars| {
    split: Split(linear(vars.split(), 8, 8)),
    stir: Stir(linear(vars.stir(), 8, 8)),
    stir_again: Stir(linear(vars.stir_again(), 8, 8)),
    unite: Unite,
});

#[pipeline]
struct Block {
    linear: Linear,
    drop: FuncT<'static>,
}

fn block(vars: BlockVars<'_>) -> Block {
    Block { linear: linear(vars.linear(), 8, 8), drop: dropout(0.3) }
}

/// Nested and repeated blocks: an array spread evenly, a `Vec` spread by counts, and an array as
/// one layer.
#[pipeline(allow(short_skip))]
struct Repeats {
    #[devices("cpu", "cpu")]
    array: [Block; 3],
    #[devices("cpu" = 1, "cpu" = 2)]
    #[stash(kept = input, also = output)]
    vec: Vec<Block>,
    #[device("cpu")]
    #[pop(kept)]
    merge: Merge,
    #[repeat]
    rest: [Linear; 2],
    #[pop(also)]
    merge_again: Merge,
}

case!(Repeats, RepeatsVars, |vars| {
    array: vars.array().map(|path| block(Block::vars_at(path))),
    vec: vars.vec(3).into_iter().map(|path| block(Block::vars_at(path))).collect(),
    merge: Merge,
    rest: vars.rest().map(|path| linear(path, 8, 8)),
    merge_again: Merge,
});

#[pipeline]
struct DropoutEverywhere {
    #[device("cpu")]
    first: Linear,
    drop1: FuncT<'static>,
    drop2: FuncT<'static>,
    #[device("cpu")]
    #[stash(noise)]
    noise: Noise,
    second: Linear,
    #[device("cpu")]
    drop3: FuncT<'static>,
    #[pop(noise)]
    merge: Merge,
}

/// A layer that draws random numbers by operators other than dropout.
struct Noise;

impl Layer<Tensor> for Noise {
    type Out = (Tensor, Tensor);

    fn run(&self, x: Tensor, _cx: &Context) -> (Tensor, Tensor) {
        let normal = x.randn_like();
        let uniform = Tensor::rand(x.size(), (x.kind(), x.device()));
        let coin = Tensor::bernoulli(&uniform);
        (x + normal * 0.1, uniform * coin)
    }
}

case!(DropoutEverywhere, DropoutEverywhereVars, |vars| {
    first: linear(vars.first(), 8, 8),
    drop1: dropout(0.2),
    drop2: dropout(0.2),
    noise: Noise,
    second: linear(vars.second(), 8, 8),
    drop3: dropout(0.5),
    merge: Merge,
});

#[pipeline]
struct Statistics {
    #[device("cpu")]
    first: Linear,
    norm1: Normalize,
    #[device("cpu")]
    second: Linear,
    norm2: Normalize,
}

/// Batch norm that accepts a single row, which torch's batch norm refuses in training.
#[derive(Debug)]
struct Normalize(BatchNorm);

impl nn::ModuleT for Normalize {
    fn forward_t(&self, x: &Tensor, train: bool) -> Tensor {
        x.unsqueeze(-1).repeat([1, 1, 2]).apply_t(&self.0, train).mean_dim(-1, false, Kind::Float)
    }
}

case!(Statistics, StatisticsVars, |vars| {
    first: linear(vars.first(), 8, 8),
    norm1: Normalize(nn::batch_norm1d(vars.norm1(), 8, Default::default())),
    second: linear(vars.second(), 8, 8),
    norm2: Normalize(nn::batch_norm1d(vars.norm2(), 8, Default::default())),
});

type Inputs = (Tensor, Option<Tensor>, Replicate<Tensor>, f64);
type Outputs = (Tensor, Tensor, (Tensor, Tensor), f64);

/// Several inputs, one of which each micro-batch gets whole, and several outputs, one of integers
/// and one constant.
#[pipeline(input = Inputs, output = Outputs)]
struct ManyEnds {
    #[device("cpu")]
    begin: Begin,
    #[device("cpu")]
    middle: Linear,
    #[device("cpu")]
    end: End,
}

struct Begin;

impl Layer<Inputs> for Begin {
    type Out = Tensor;

    fn run(&self, (x, bias, Replicate(table), scale): Inputs, _cx: &Context) -> Tensor {
        let x = x.matmul(&table) * scale;
        bias.map_or_else(|| x.shallow_clone(), |bias| &x + bias)
    }
}

struct End;

impl Layer<Tensor> for End {
    type Out = Outputs;

    fn run(&self, x: Tensor, _cx: &Context) -> Outputs {
        (x.argmax(-1, false), x.sin(), (x.detach(), x.sigmoid()), 0.5)
    }
}

case!(ManyEnds, ManyEndsVars, |vars| {
    begin: Begin,
    middle: linear(vars.middle(), 8, 8),
    end: End,
}, |n| {
    let (x, bias) = (leaf(n), leaf(n));
    let table = leaf(8);
    ((x.shallow_clone(), Some(bias.shallow_clone()), Replicate(table.shallow_clone()), 1.5), vec![x, bias, table])
}, |(labels, sine, (constant, sigmoid), _)| vec![labels, sine, constant, sigmoid]);

/// Skips without a gradient: integers, detached values, and one that is popped and not used.
#[pipeline]
struct ConstantSkips {
    #[device("cpu")]
    #[stash(order, constant, unused)]
    first: Constants,
    #[device("cpu")]
    second: Linear,
    #[device("cpu")]
    #[pop(order, constant, unused)]
    gather: Gather,
}

struct Constants(Linear);

impl Layer<Tensor> for Constants {
    type Out = (Tensor, Tensor, Tensor, Tensor);

    fn run(&self, x: Tensor, _cx: &Context) -> Self::Out {
        let x = x.apply(&self.0);
        (x.tanh(), x.argsort(-1, false), x.detach(), x.sin())
    }
}

struct Gather;

impl Layer<(Tensor, Tensor, Tensor, Tensor)> for Gather {
    type Out = Tensor;

    fn run(&self, (x, order, constant, _unused): (Tensor, Tensor, Tensor, Tensor), _cx: &Context) -> Tensor {
        x.gather(-1, &order, false) * constant
    }
}

case!(ConstantSkips, ConstantSkipsVars, |vars| {
    first: Constants(linear(vars.first(), 8, 8)),
    second: linear(vars.second(), 8, 8),
    gather: Gather,
});

/// A first stage without parameters on an input that requires no gradient, and a stage that returns
/// its input.
#[pipeline]
struct NoGradients {
    #[device("cpu")]
    scale: Func<'static>,
    #[device("cpu")]
    pass: Func<'static>,
    #[device("cpu")]
    last: Linear,
}

case!(NoGradients, NoGradientsVars, |vars| {
    scale: func(|x| x * 2.),
    pass: func(Tensor::shallow_clone),
    last: linear(vars.last(), 8, 3),
}, |n| (rows(n), vec![]), |y| vec![y]);

transparent! {
    one_stage: OneStage,
    skips_inside_a_stage: SkipsInside,
    nested_far_skips: NestedFarSkips,
    crossing_skips: CrossingSkips,
    several_skips_of_one_layer: SeveralSkips,
    conditional_skip: ConditionalSkip,
    tuple_skip: TupleSkip,
    mixed_values_between_stages: MixedFlow,
    repeated_layers: Repeats,
    random_numbers_in_every_stage: DropoutEverywhere,
    running_statistics: Statistics,
    many_inputs_and_outputs: ManyEnds,
    skips_without_a_gradient: ConstantSkips,
    stages_without_gradients: NoGradients,
}

/// A stage whose first layer works in place. Checkpointing it is an error, which `errors.rs` tests.
#[pipeline]
struct InPlaceFirst {
    #[device("cpu")]
    first: Linear,
    #[device("cpu")]
    relu: Func<'static>,
    second: Linear,
    #[device("cpu")]
    sigmoid: Func<'static>,
    #[stash(kept = output)]
    tanh: Func<'static>,
    third: Linear,
    relu_again: Func<'static>,
    #[pop(kept)]
    merge: Merge,
}

case!(InPlaceFirst, InPlaceFirstVars, |vars| {
    first: linear(vars.first(), 8, 8),
    relu: func(|x| x.shallow_clone().relu_()),
    second: linear(vars.second(), 8, 8),
    sigmoid: func(|x| x.shallow_clone().sigmoid_()),
    tanh: func(Tensor::tanh),
    third: linear(vars.third(), 8, 8),
    relu_again: func(|x| x.shallow_clone().relu_()),
    merge: Merge,
});

proptest! {
    #![proptest_config(config())]
    #[test]
    fn in_place_first_layers(settings in settings()) {
        assert_transparent::<InPlaceFirst>(Settings { checkpoint: Checkpoint::Never, ..settings });
    }
}
