//! Several values that flow side by side, over three and over four stages, beside plain tch:
//! constants that are used far from where they come in, lent weights, complex numbers, integers
//! that go first, and values that are not used.

use pipe_runtime::{Checkpoint, Context, Devices, Flow, IntoFlow, Layer, Replicate, ScheduleKind, pipeline};
use pipe_tests::compare::{mse, rows};
use pipe_tests::layers::linear;
use pipe_tests::zoo::train::{MODES, calls, train};
use pipe_tests::zoo::{Nearness, Order, Passed, Probe, Probed, Twin, Watchable, ZooModel};
use tch::nn::{self, Embedding, Linear, Path};
use tch::{Device, Kind, Reduction, Tensor};

const TOKENS: i64 = 5;
const WIDTH: i64 = 6;
const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);

/// Four layers, their input, and the same model in plain tch.
trait Family {
    type In: Flow + IntoFlow<Self::In>;
    type A;
    type B;
    type C;
    type D;

    /// Indices of the input's tensors that each micro-batch gets whole.
    const WHOLE: &[usize] = &[];

    fn a(path: &Path<'_>) -> Self::A;
    fn b(path: &Path<'_>) -> Self::B;
    fn c(path: &Path<'_>) -> Self::C;
    fn d(path: &Path<'_>) -> Self::D;

    fn batch(rows: i64) -> Vec<Tensor> {
        vec![Tensor::randn([rows, TOKENS, WIDTH], FLOAT)]
    }

    fn input(tensors: &[Tensor]) -> Self::In;

    fn target(rows: i64) -> Tensor {
        Tensor::randn([rows, TOKENS, WIDTH], FLOAT)
    }

    fn loss(output: &Tensor, target: &Tensor) -> Tensor {
        output.mse_loss(target, Reduction::Mean)
    }

    /// Computes the output in plain tch. All layers must send a value that requires a gradient.
    fn plain(twin: &mut Twin, input: &[Tensor]) -> Tensor;
}

/// Defines a pipeline of a family's layers. `$stages` has the stage of each layer.
macro_rules! model {
    ($family:ident, $model:ident, $vars:ident, $count:literal, $stages:expr,
     [$($on_a:meta)?] [$($on_c:meta)?] [$($on_d:meta)?]) => {
        #[pipeline(input = <$family as Family>::In)]
        struct $model {
            #[device("cpu")]
            $(#[$on_a])?
            a: Probed<<$family as Family>::A>,
            #[device("cpu")]
            b: Probed<<$family as Family>::B>,
            $(#[$on_c])?
            c: Probed<<$family as Family>::C>,
            #[device("cpu")]
            $(#[$on_d])?
            d: Probed<<$family as Family>::D>,
        }

        impl Watchable for $model {
            type Vars = $vars;
            type Layers = ();

            fn make((): &(), probe: &Probe) -> (Self, $vars) {
                let vars = $model::vars(&Devices::cpu($count)).unwrap();
                let model = $model {
                    a: probe.watch($family::a(&vars.a())),
                    b: probe.watch($family::b(&vars.b())),
                    c: probe.watch($family::c(&vars.c())),
                    d: probe.watch($family::d(&vars.d())),
                };
                (model, vars)
            }

            fn stages((): &()) -> Vec<usize> {
                $stages.to_vec()
            }

            fn batch(rows: i64) -> Vec<Tensor> {
                $family::batch(rows)
            }

            fn input(tensors: &[Tensor]) -> <$family as Family>::In {
                $family::input(tensors)
            }

            fn target(rows: i64) -> Tensor {
                $family::target(rows)
            }

            fn output(output: &Tensor) -> &Tensor {
                output
            }

            fn loss(output: &Tensor, target: &Tensor) -> Tensor {
                $family::loss(output, target)
            }
        }

        impl ZooModel for $model {
            const WHOLE: &[usize] = <$family as Family>::WHOLE;

            fn plain((): &(), twin: &mut Twin, input: &[Tensor], _micro_batch: usize) -> Passed {
                Passed { output: $family::plain(twin, input), carries: vec![true; $count] }
            }
        }
    };
}

/// Defines a pipeline over three stages, the second with two layers, and one over four.
macro_rules! models {
    ($family:ident: $three:ident, $three_vars:ident, $four:ident, $four_vars:ident) => {
        models!($family: $three, $three_vars, $four, $four_vars, [] []);
    };
    ($family:ident: $three:ident, $three_vars:ident, $four:ident, $four_vars:ident,
     [$($on_a:meta)?] [$($on_d:meta)?]) => {
        model!($family, $three, $three_vars, 3, [0, 1, 1, 2], [$($on_a)?] [] [$($on_d)?]);
        model!($family, $four, $four_vars, 4, [0, 1, 2, 3], [$($on_a)?] [device("cpu")] [$($on_d)?]);
    };
}

/// Trains both models with one to twelve rows.
fn train_both<Three: ZooModel<Layers = ()>, Four: ZooModel<Layers = ()>>(
    gradients: impl Fn(Order, &str) -> Nearness,
    calls_of_inputs: usize,
) {
    // Numbers of rows alternate between low and high, so that micro-batches are ragged in different
    // ways.
    let rows = [1, 12, 2, 11, 3, 10, 4, 9, 5, 8, 6, 7];
    let left_out = 2 - calls_of_inputs;
    for (stages, counts) in [(3, train::<Three>(&(), &rows, &gradients)), (4, train::<Four>(&(), &rows, &gradients))] {
        assert_eq!(counts.len(), MODES.len() * (calls(stages).len() - left_out));
        assert!(counts.values().all(|&count| count == rows.len()), "{counts:?}");
    }
}

fn bits(_: Order, _: &str) -> Nearness {
    Nearness::Bits
}

fn dense(path: &Path<'_>, outputs: i64) -> Linear {
    linear(path.clone(), WIDTH, outputs)
}

/// Applies a linear map and `tanh` in plain tch.
fn plain_dense(twin: &mut Twin, path: &str, x: &Tensor) -> Tensor {
    plain_linear(twin, path, x).tanh()
}

fn plain_linear(twin: &mut Twin, path: &str, x: &Tensor) -> Tensor {
    let layer = twin.layer(path);
    x.linear(&layer.get("weight"), Some(&layer.get("bias")))
}

// Masks and class weights.

/// Mask, weights of the classes, labels, and activations.
type Masked = (Replicate<Tensor>, Replicate<Tensor>, Tensor, Tensor);

/// A layer that applies a linear map and `tanh` to the activations.
struct Dense(Linear);

impl Layer<Masked> for Dense {
    type Out = Masked;

    fn run(&self, (mask, weights, labels, x): Masked, _cx: &Context) -> Masked {
        (mask, weights, labels, x.apply(&self.0).tanh())
    }
}

/// A layer with masked attention, which also computes the weighted loss of each token.
struct Attention(Linear);

fn attention(x: &Tensor, mask: &Tensor) -> Tensor {
    let heads = x.reshape([-1, TOKENS, 2, WIDTH / 2]).transpose(1, 2);
    let found = Tensor::scaled_dot_product_attention(&heads, &heads, &heads, Some(mask), 0., false, None, false);
    x + found.transpose(1, 2).reshape([-1, TOKENS, WIDTH])
}

fn token_losses(logits: &Tensor, labels: &Tensor, weights: &Tensor) -> Tensor {
    logits.transpose(1, 2).cross_entropy_loss(labels, Some(weights), Reduction::None, -100, 0.)
}

impl Layer<Masked> for Attention {
    type Out = Tensor;

    fn run(&self, (mask, weights, labels, x): Masked, _cx: &Context) -> Tensor {
        assert!(!mask.0.requires_grad() && !weights.0.requires_grad(), "a constant stays one");
        token_losses(&attention(&x, &mask.0).apply(&self.0), &labels, &weights.0)
    }
}

struct WithMask;

impl Family for WithMask {
    type In = Masked;
    type A = Dense;
    type B = Dense;
    type C = Dense;
    type D = Attention;

    const WHOLE: &[usize] = &[1, 2];

    fn a(path: &Path<'_>) -> Dense {
        Dense(dense(path, WIDTH))
    }

    fn b(path: &Path<'_>) -> Dense {
        Dense(dense(path, WIDTH))
    }

    fn c(path: &Path<'_>) -> Dense {
        Dense(dense(path, WIDTH))
    }

    fn d(path: &Path<'_>) -> Attention {
        Attention(dense(path, 3))
    }

    fn batch(rows: i64) -> Vec<Tensor> {
        let mask = Tensor::randn([TOKENS, TOKENS], FLOAT);
        let weights = Tensor::from_slice(&[0.5_f32, 1., 2.]);
        let labels = Tensor::randint(3, [rows, TOKENS], (Kind::Int64, Device::Cpu));
        vec![Tensor::randn([rows, TOKENS, WIDTH], FLOAT), mask, weights, labels]
    }

    fn input(tensors: &[Tensor]) -> Masked {
        let [x, mask, weights, labels] = [0, 1, 2, 3].map(|index| tensors[index].shallow_clone());
        (Replicate(mask), Replicate(weights), labels, x)
    }

    fn loss(output: &Tensor, _target: &Tensor) -> Tensor {
        output.mean(Kind::Float)
    }

    fn plain(twin: &mut Twin, input: &[Tensor]) -> Tensor {
        let x = ["a", "b", "c"].iter().fold(input[0].shallow_clone(), |x, path| plain_dense(twin, path, &x));
        token_losses(&plain_linear(twin, "d", &attention(&x, &input[1])), &input[3], &input[2])
    }
}

models!(WithMask: Mask3, Mask3Vars, Mask4, Mask4Vars);

#[test]
fn a_mask_and_class_weights_that_are_used_in_the_last_stage() {
    train_both::<Mask3, Mask4>(bits, 2);
}

// Tied weights.

const WORDS: i64 = 7;

struct DenseAlone(Linear);

impl Layer<Tensor> for DenseAlone {
    type Out = Tensor;

    fn run(&self, x: Tensor, _cx: &Context) -> Tensor {
        x.apply(&self.0).tanh()
    }
}

/// A layer that scores the next word by the vectors that the embedding lends.
struct Head;

impl Layer<(Tensor, Tensor)> for Head {
    type Out = Tensor;

    fn run(&self, (x, words): (Tensor, Tensor), _cx: &Context) -> Tensor {
        let tokens = x.size()[1];
        x.slice(1, tokens - 1, tokens, 1).matmul(&words.tr())
    }
}

struct WithTie;

impl Family for WithTie {
    type In = Tensor;
    type A = Embedding;
    type B = DenseAlone;
    type C = DenseAlone;
    type D = Head;

    fn a(path: &Path<'_>) -> Embedding {
        nn::embedding(path, WORDS, WIDTH, Default::default())
    }

    fn b(path: &Path<'_>) -> DenseAlone {
        DenseAlone(dense(path, WIDTH))
    }

    fn c(path: &Path<'_>) -> DenseAlone {
        DenseAlone(dense(path, WIDTH))
    }

    fn d(_path: &Path<'_>) -> Head {
        Head
    }

    fn batch(rows: i64) -> Vec<Tensor> {
        vec![Tensor::randint(WORDS, [rows, TOKENS], (Kind::Int64, Device::Cpu))]
    }

    fn input(tensors: &[Tensor]) -> Tensor {
        tensors[0].shallow_clone()
    }

    fn target(rows: i64) -> Tensor {
        Tensor::randint(WORDS, [rows], (Kind::Int64, Device::Cpu))
    }

    fn loss(output: &Tensor, target: &Tensor) -> Tensor {
        output.squeeze_dim(1).cross_entropy_for_logits(target)
    }

    fn plain(twin: &mut Twin, input: &[Tensor]) -> Tensor {
        let words = twin.layer("a").get("weight");
        let x = Tensor::embedding(&words, &input[0], -1, false, false);
        let x = plain_dense(twin, "b", &x);
        plain_dense(twin, "c", &x).slice(1, TOKENS - 1, TOKENS, 1).matmul(&words.tr())
    }
}

models!(WithTie: Tie3, Tie3Vars, Tie4, Tie4Vars, [lend(words = tied)] [read(words)]);

#[test]
fn an_embedding_and_a_head_of_one_weight_on_the_last_token() {
    let lent = |_: Order, name: &str| match name {
        "a.weight" => Nearness::Relative(1e-6),
        _ => Nearness::Bits,
    };
    // Words are integers, so they cannot require a gradient.
    train_both::<Tie3, Tie4>(lent, 1);
}

// Complex numbers.

/// Rotations for all rows, and the complex numbers of each row.
type Turning = (Replicate<Tensor>, Tensor);

fn as_complex(x: &Tensor) -> Tensor {
    x.contiguous().view([-1, TOKENS, WIDTH / 2, 2]).view_as_complex()
}

fn as_real(x: &Tensor) -> Tensor {
    x.view_as_real().reshape([-1, TOKENS, WIDTH])
}

struct Begin(Linear);

impl Layer<Turning> for Begin {
    type Out = Turning;

    fn run(&self, (table, x): Turning, _cx: &Context) -> Turning {
        (table, as_complex(&x.apply(&self.0)))
    }
}

/// A layer that multiplies by a complex weight, which is a vector or a matrix.
struct Product(Tensor);

fn product(z: &Tensor, weight: &Tensor) -> Tensor {
    if weight.dim() == 1 { z * weight } else { z.matmul(weight) }
}

fn complex_weight(path: &Path<'_>, size: &[i64]) -> Product {
    Product(path.add("weight", Tensor::randn(size, (Kind::ComplexFloat, Device::Cpu)) * 0.7, true))
}

impl Layer<Turning> for Product {
    type Out = Turning;

    fn run(&self, (table, z): Turning, _cx: &Context) -> Turning {
        (table, product(&z, &self.0))
    }
}

struct End(Linear);

impl Layer<Turning> for End {
    type Out = Tensor;

    fn run(&self, (Replicate(table), z): Turning, _cx: &Context) -> Tensor {
        assert!(table.is_complex() && !table.requires_grad(), "a constant stays one");
        as_real(&(z * table)).tanh().apply(&self.0)
    }
}

struct WithComplex;

impl Family for WithComplex {
    type In = Turning;
    type A = Begin;
    type B = Product;
    type C = Product;
    type D = End;

    const WHOLE: &[usize] = &[1];

    fn a(path: &Path<'_>) -> Begin {
        Begin(dense(path, WIDTH))
    }

    fn b(path: &Path<'_>) -> Product {
        complex_weight(path, &[WIDTH / 2])
    }

    fn c(path: &Path<'_>) -> Product {
        complex_weight(path, &[WIDTH / 2, WIDTH / 2])
    }

    fn d(path: &Path<'_>) -> End {
        End(dense(path, WIDTH))
    }

    fn batch(rows: i64) -> Vec<Tensor> {
        let angle = Tensor::randn([TOKENS, WIDTH / 2], FLOAT);
        vec![Tensor::randn([rows, TOKENS, WIDTH], FLOAT), Tensor::polar(&angle.ones_like(), &angle)]
    }

    fn input(tensors: &[Tensor]) -> Turning {
        (Replicate(tensors[1].shallow_clone()), tensors[0].shallow_clone())
    }

    fn plain(twin: &mut Twin, input: &[Tensor]) -> Tensor {
        let z = as_complex(&plain_linear(twin, "a", &input[0]));
        let z = product(&z, &twin.layer("b").get("weight"));
        let z = product(&z, &twin.layer("c").get("weight"));
        plain_linear(twin, "d", &as_real(&(z * &input[1])).tanh())
    }
}

models!(WithComplex: Complex3, Complex3Vars, Complex4, Complex4Vars);

#[test]
fn complex_constants_and_complex_values_with_gradients() {
    train_both::<Complex3, Complex4>(bits, 2);
}

// Integers and booleans first.

/// An order of numbers, a mask of the numbers to keep, and the numbers.
type Ordered = (Tensor, Tensor, Tensor);

struct Look(Linear);

fn look(x: &Tensor) -> (Tensor, Tensor) {
    (x.argsort(-1, false), x.detach().gt(-0.5))
}

impl Layer<Tensor> for Look {
    type Out = Ordered;

    fn run(&self, x: Tensor, _cx: &Context) -> Ordered {
        let x = x.apply(&self.0);
        let (order, kept) = look(&x);
        (order, kept, x)
    }
}

struct Gather(Linear);

impl Layer<Ordered> for Gather {
    type Out = Ordered;

    fn run(&self, (order, kept, x): Ordered, _cx: &Context) -> Ordered {
        let x = x.apply(&self.0).tanh().gather(-1, &order, false);
        (order, kept, x)
    }
}

struct Keep(Linear);

impl Layer<Ordered> for Keep {
    type Out = Tensor;

    fn run(&self, (order, kept, x): Ordered, _cx: &Context) -> Tensor {
        assert_eq!((order.kind(), kept.kind()), (Kind::Int64, Kind::Bool));
        x.masked_fill(&kept.logical_not(), 0.3).apply(&self.0) + order * 0.1
    }
}

struct IntegersFirst;

impl Family for IntegersFirst {
    type In = Tensor;
    type A = Look;
    type B = Gather;
    type C = Gather;
    type D = Keep;

    fn a(path: &Path<'_>) -> Look {
        Look(dense(path, WIDTH))
    }

    fn b(path: &Path<'_>) -> Gather {
        Gather(dense(path, WIDTH))
    }

    fn c(path: &Path<'_>) -> Gather {
        Gather(dense(path, WIDTH))
    }

    fn d(path: &Path<'_>) -> Keep {
        Keep(dense(path, WIDTH))
    }

    fn input(tensors: &[Tensor]) -> Tensor {
        tensors[0].shallow_clone()
    }

    fn plain(twin: &mut Twin, input: &[Tensor]) -> Tensor {
        let x = plain_linear(twin, "a", &input[0]);
        let (order, kept) = look(&x);
        let x = plain_dense(twin, "b", &x).gather(-1, &order, false);
        let x = plain_dense(twin, "c", &x).gather(-1, &order, false);
        plain_linear(twin, "d", &x.masked_fill(&kept.logical_not(), 0.3)) + order * 0.1
    }
}

models!(IntegersFirst: Integers3, Integers3Vars, Integers4, Integers4Vars);

#[test]
fn integers_and_booleans_that_go_first() {
    train_both::<Integers3, Integers4>(bits, 2);
}

// Values that are not used.

type Pair = (Tensor, Tensor);

struct Part(Linear, Linear);

impl Layer<Tensor> for Part {
    type Out = Pair;

    fn run(&self, x: Tensor, _cx: &Context) -> Pair {
        (x.apply(&self.0).tanh(), x.apply(&self.1).tanh())
    }
}

struct SideBySide(Linear, Linear);

impl Layer<Pair> for SideBySide {
    type Out = Pair;

    fn run(&self, (x, y): Pair, _cx: &Context) -> Pair {
        (x.apply(&self.0).tanh(), y.apply(&self.1).tanh())
    }
}

/// A layer that does not use the second value.
struct OnlyFirst(Linear);

impl Layer<Pair> for OnlyFirst {
    type Out = Tensor;

    fn run(&self, (x, _): Pair, _cx: &Context) -> Tensor {
        x.apply(&self.0)
    }
}

fn two_of(path: &Path<'_>) -> (Linear, Linear) {
    (dense(&(path / "first"), WIDTH), dense(&(path / "second"), WIDTH))
}

struct Ignoring;

impl Family for Ignoring {
    type In = Tensor;
    type A = Part;
    type B = SideBySide;
    type C = SideBySide;
    type D = OnlyFirst;

    fn a(path: &Path<'_>) -> Part {
        let (first, second) = two_of(path);
        Part(first, second)
    }

    fn b(path: &Path<'_>) -> SideBySide {
        let (first, second) = two_of(path);
        SideBySide(first, second)
    }

    fn c(path: &Path<'_>) -> SideBySide {
        let (first, second) = two_of(path);
        SideBySide(first, second)
    }

    fn d(path: &Path<'_>) -> OnlyFirst {
        OnlyFirst(dense(path, WIDTH))
    }

    fn input(tensors: &[Tensor]) -> Tensor {
        tensors[0].shallow_clone()
    }

    fn plain(twin: &mut Twin, input: &[Tensor]) -> Tensor {
        let first = ["a.first", "b.first", "c.first"];
        let x = first.iter().fold(input[0].shallow_clone(), |x, path| plain_dense(twin, path, &x));
        plain_linear(twin, "d", &x)
    }
}

models!(Ignoring: Ignoring3, Ignoring3Vars, Ignoring4, Ignoring4Vars);

#[test]
fn a_layer_that_does_not_look_at_one_of_its_inputs() {
    train_both::<Ignoring3, Ignoring4>(bits, 2);
}

/// The output in the loss, one outside the loss, and integers.
type Heads = (Tensor, Tensor, Tensor);

struct ThreeHeads(Linear, Linear);

impl Layer<Pair> for ThreeHeads {
    type Out = Heads;

    fn run(&self, (x, y): Pair, _cx: &Context) -> Heads {
        let (first, second) = (x.apply(&self.0), (x + y).apply(&self.1));
        let best = second.argmax(-1, false);
        (first, second, best)
    }
}

#[pipeline(output = Heads, chunks = 4)]
struct ManyHeads {
    #[device("cpu")]
    part: Part,
    #[device("cpu")]
    middle: SideBySide,
    #[device("cpu")]
    heads: ThreeHeads,
}

fn many_heads() -> (ManyHeads, ManyHeadsVars) {
    tch::manual_seed(5);
    let vars = ManyHeads::vars(&Devices::cpu(3)).unwrap();
    let two = |path: &Path<'_>| (linear(path / "first", 8, 8), linear(path / "second", 8, 8));
    let ((a, b), (c, d), (e, f)) = (two(&vars.part()), two(&vars.middle()), two(&vars.heads()));
    (ManyHeads { part: Part(a, b), middle: SideBySide(c, d), heads: ThreeHeads(e, f) }, vars)
}

/// Lists the defined gradients by name.
fn gradients(vars: &ManyHeadsVars) -> Vec<(String, Tensor)> {
    let variables = vars.var_store().variables().into_iter();
    let came = variables.filter(|(_, variable)| variable.grad().defined());
    let mut found: Vec<_> = came.map(|(name, variable)| (name, variable.grad().copy())).collect();
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    found
}

#[test]
fn an_output_that_the_loss_does_not_look_at() {
    let _serial = pipe_tests::serial();
    let methods = [ScheduleKind::GPipe, ScheduleKind::OneFOneB, ScheduleKind::ZbH1, ScheduleKind::ZbH2].map(Some);
    for count in 1..=12 {
        let (x, y) = (rows(count), rows(count));
        let parts = || x.chunk(4, 0).into_iter().zip(y.chunk(4, 0));
        let weight = |part: &Tensor| part.size()[0] as f64 / count as f64;
        let pass = |net: &ManyHeads, x: &Tensor| {
            let a = (x.apply(&net.part.0).tanh(), x.apply(&net.part.1).tanh());
            let (a, b) = (a.0.apply(&net.middle.0).tanh(), a.1.apply(&net.middle.1).tanh());
            (a.apply(&net.heads.0), (&a + b).apply(&net.heads.1))
        };
        let plain = |method: Option<ScheduleKind>| {
            let (net, vars) = many_heads();
            let weighted = || parts().map(|(x, y)| mse(&pass(&net, &x).0, &y) * weight(&y));
            match method {
                None => {
                    let outputs: Vec<_> = parts().map(|(x, _)| pass(&net, &x).0).collect();
                    mse(&Tensor::cat(&outputs, 0), &y).backward();
                }
                Some(ScheduleKind::GPipe) => weighted().sum::<Tensor>().backward(),
                Some(_) => weighted().for_each(|loss| loss.backward()),
            }
            let second: Vec<_> = parts().map(|(x, _)| pass(&net, &x).1).collect();
            (gradients(&vars), Tensor::cat(&second, 0))
        };
        for method in methods.into_iter().chain([None]) {
            let (expected, second) = plain(method);
            // The first linear layer of each of three stages has gradients of weight and bias.
            assert_eq!(expected.len(), 6);
            for mode in [Checkpoint::Never, Checkpoint::ExceptLast, Checkpoint::Always] {
                let about = format!("{method:?}, {mode}, {count} rows");
                let (net, vars) = many_heads();
                let builder = net.pipe(&vars).checkpoint(mode).intra_op_threads(1);
                let mut pipe = builder.schedule(method.unwrap_or(ScheduleKind::GPipe)).build().unwrap();
                let output = if method.is_some() {
                    let loss = |(first, ..): &Heads, y: &Tensor| mse(first, y);
                    pipe.step().keep_output().run(&x, &y, loss).unwrap().output
                } else {
                    let output = pipe.forward(&x).unwrap();
                    assert!(output.0.requires_grad() && output.1.requires_grad() && !output.2.requires_grad());
                    mse(&output.0, &y).backward();
                    output
                };
                assert_eq!((&output.1, &output.2), (&second, &second.argmax(-1, false)), "{about}");
                assert_eq!(gradients(&vars), expected, "{about}");
            }
        }
    }
}
