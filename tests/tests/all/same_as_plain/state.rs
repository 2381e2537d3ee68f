//! Values that layers keep, share and change in place: each works as unpipelined, or is a clear
//! error.

use std::cell::RefCell;
use std::collections::BTreeMap;

use pipe_runtime::{Checkpoint, Context, Devices, Layer, pipeline};
use pipe_tests::compare::{leaf, rows};
use pipe_tests::layers::{dropout, func, linear};
use tch::nn::{self, Func, FuncT, Linear};
use tch::{Device, Kind, Tensor};

const MODES: [Checkpoint; 3] = [Checkpoint::Always, Checkpoint::ExceptLast, Checkpoint::Never];

/// A layer that subtracts the running mean of its inputs, including the current one. Its output
/// depends on a statistic that it updates.
struct Centre {
    mean: Tensor,
}

impl Layer<Tensor> for Centre {
    type Out = Tensor;

    fn run(&self, x: Tensor, cx: &Context) -> Tensor {
        if cx.is_training() {
            tch::no_grad(|| {
                let updated = &self.mean * 0.5 + x.mean_dim([0_i64].as_slice(), false, Kind::Float) * 0.5;
                self.mean.data().copy_(&updated);
            });
        }
        (x - self.mean.copy()).square()
    }
}

#[pipeline(chunks = 3)]
struct Centred {
    #[device("cpu")]
    first: Linear,
    centre: Centre,
    #[device("cpu")]
    last: Linear,
}

#[test]
fn a_recomputation_sees_the_statistics_of_its_first_pass() {
    let _serial = pipe_tests::serial();
    let mut expected: Option<(Vec<Tensor>, Tensor)> = None;
    for mode in MODES {
        tch::manual_seed(3);
        let vars = Centred::vars(&Devices::cpu(2)).unwrap();
        let net = Centred {
            first: linear(vars.first(), 8, 8),
            centre: Centre { mean: vars.centre().zeros_no_train("mean", &[8]) },
            last: linear(vars.last(), 8, 8),
        };
        let mut pipe = net.pipe(&vars).checkpoint(mode).intra_op_threads(1).build().unwrap();
        pipe.forward(rows(6)).unwrap().sum(Kind::Float).backward();
        let gradients: Vec<Tensor> = vars.var_store().trainable_variables().iter().map(Tensor::grad).collect();
        let found = (gradients, vars.var_store().variables()["centre.mean"].copy());
        assert_eq!(
            *expected.get_or_insert_with(|| (found.0.iter().map(Tensor::copy).collect(), found.1.copy())),
            found,
            "{mode}"
        );
    }
}

/// A layer that moves its state halfway to the mean, by `set_data`. With an input of ones, the
/// state is 0.875 after three micro-batches, and the gradient of the factor before the layer is
/// 3.5.
struct Moved {
    state: Tensor,
    fails: bool,
}

impl Layer<Tensor> for Moved {
    type Out = Tensor;

    fn run(&self, x: Tensor, cx: &Context) -> Tensor {
        let mean = x.detach().mean_dim([0_i64].as_slice(), false, Kind::Float);
        self.state.shallow_clone().set_data(&(&self.state * 0.5 + mean * 0.5));
        assert!(!(self.fails && cx.micro_batch() == 1), "the layer fails on purpose");
        (x - &self.state).square()
    }
}

#[pipeline(chunks = 3)]
struct Moving {
    #[device("cpu")]
    scale: Func<'static>,
    #[device("cpu")]
    moved: Moved,
    #[device("cpu")]
    last: Func<'static>,
}

/// Runs a step. Returns the state, and the factor's gradient or the error.
fn moving(checkpoint: Checkpoint, fails: bool) -> (f64, Result<f64, String>) {
    let vars = Moving::vars(&Devices::cpu(3)).unwrap();
    let factor = vars.scale().ones("factor", &[8]);
    let state = vars.moved().zeros_no_train("state", &[8]);
    let own = factor.shallow_clone();
    let net = Moving {
        scale: nn::func(move |x| x * &own),
        moved: Moved { state: state.shallow_clone(), fails },
        last: nn::func(|x| (x * 1.).g_mul_scalar_(1.)),
    };
    let mut pipe = net.pipe(&vars).checkpoint(checkpoint).build().unwrap();
    let x = Tensor::ones([6, 8], (Kind::Float, Device::Cpu));
    let first_line = |error: String| error.lines().next().unwrap_or_default().to_owned();
    let trained = match pipe.forward(x) {
        Ok(y) => y.sum(Kind::Float).f_backward().map_err(|error| first_line(error.to_string())),
        Err(error) => Err(first_line(error.to_string())),
    };
    (state.double_value(&[0]), trained.map(|()| factor.grad().double_value(&[0])))
}

#[test]
fn state_that_is_moved_by_set_data_is_state() {
    let _serial = pipe_tests::serial();
    let mut found = BTreeMap::new();
    for checkpoint in MODES {
        // The step is repeated, because it is random which addresses are reused.
        for _ in 0..50 {
            *found.entry(format!("{checkpoint}: {:?}", moving(checkpoint, false))).or_insert(0) += 1;
        }
    }
    assert!(found.keys().all(|outcome| outcome.ends_with("(0.875, Ok(3.5))")), "{found:#?}");
}

#[test]
fn state_that_is_moved_by_set_data_is_put_back_after_a_failure() {
    let _serial = pipe_tests::serial();
    let (state, trained) = moving(Checkpoint::Never, true);
    assert!(trained.is_err());
    assert_eq!(state, 0.);
}

#[pipeline(chunks = 2)]
struct Two {
    #[device("cpu")]
    first: Func<'static>,
    #[device("cpu")]
    last: Linear,
}

fn two(first: fn(&Tensor) -> Tensor) -> (Two, TwoVars) {
    tch::manual_seed(3);
    let vars = Two::vars(&Devices::cpu(2)).unwrap();
    let model = Two { first: func(first), last: linear(vars.last(), 8, 8) };
    (model, vars)
}

#[test]
fn a_parameter_changed_between_forward_and_backward_is_an_error_where_something_is_recomputed() {
    let _serial = pipe_tests::serial();
    let (model, vars) = two(Tensor::relu);
    let mut pipe = model.pipe(&vars).checkpoint(Checkpoint::Always).build().unwrap();
    let loss = pipe.forward(rows(4)).unwrap().sum(Kind::Float);
    let _ = tch::no_grad(|| vars.var_store().variables()["last.weight"].shallow_clone().zero_());
    let error = loss.f_backward().unwrap_err().to_string();
    assert!(error.contains("a parameter was modified by an in-place operation"), "{error}");
}

#[test]
fn an_in_place_first_layer_on_an_input_without_gradient_is_as_unpipelined() {
    let _serial = pipe_tests::serial();
    for (view, mode) in [(false, Checkpoint::Never), (true, Checkpoint::Never)] {
        let relu = |x: &Tensor| x.shallow_clone().relu_();
        let pass = |x: &Tensor| x.view_as(x);
        let (model, vars) = two(if view { pass } else { relu });
        let x = rows(4);
        let expected = model.unpipelined().forward(x.copy()).unwrap();
        let mut pipe = model.pipe(&vars).checkpoint(mode).build().unwrap();
        assert_eq!(pipe.forward(x.copy()).unwrap(), expected);
        assert_eq!(tch::no_grad(|| pipe.forward(x.copy()).unwrap()), expected);
    }
}

#[test]
fn an_input_of_the_callers_graph_that_a_layer_changes_is_an_error() {
    let _serial = pipe_tests::serial();
    let (model, vars) = two(|x| x.shallow_clone().relu_());
    let mut pipe = model.pipe(&vars).chunks(1).checkpoint(Checkpoint::Never).build().unwrap();
    let x = leaf(4) * 2.;
    let error = pipe.forward(&x).unwrap_err().to_string();
    assert!(error.contains("modified by an in-place operation"), "{error}");
}

/// A layer that adds a value that it kept from the micro-batch before.
struct Carry(Linear, RefCell<Option<Tensor>>, bool);

impl Layer<Tensor> for Carry {
    type Out = Tensor;

    fn run(&self, x: Tensor, _cx: &Context) -> Tensor {
        let x = x.apply(&self.0).tanh();
        let carried = self.1.borrow_mut().replace(if self.2 { x.detach() } else { x.shallow_clone() });
        match carried {
            Some(carried) => x + carried,
            None => x,
        }
    }
}

#[pipeline(chunks = 2, checkpoint = never)]
struct Carrying {
    #[device("cpu")]
    first: Linear,
    #[device("cpu")]
    carry: Carry,
}

#[test]
fn a_graph_carried_from_one_micro_batch_to_the_next_is_an_error_unless_detached() {
    let _serial = pipe_tests::serial();
    for detached in [true, false] {
        let vars = Carrying::vars(&Devices::cpu(2)).unwrap();
        let carry = Carry(linear(vars.carry(), 8, 8), RefCell::default(), detached);
        let model = Carrying { first: linear(vars.first(), 8, 8), carry };
        let mut pipe = model.pipe(&vars).build().unwrap();
        let outcome = pipe.forward(rows(4)).unwrap().sum(Kind::Float).f_backward();
        match outcome {
            Ok(()) => assert!(detached),
            Err(error) => {
                assert!(!detached, "{error}");
                assert!(error.to_string().contains("a value has left its stage by a side door"), "{error}");
            }
        }
    }
}

type Sum = fn(&Tensor, &Tensor) -> Tensor;

#[derive(Debug)]
struct TwoParameters {
    a: Tensor,
    b: Tensor,
    sum: Sum,
    linear: bool,
}

impl nn::Module for TwoParameters {
    fn forward(&self, x: &Tensor) -> Tensor {
        let sum = (self.sum)(&self.a, &self.b);
        if self.linear { x.linear::<&Tensor>(&sum, None) } else { x * sum }
    }
}

#[pipeline(allow(single_stage))]
struct Aliased {
    #[device("cpu")]
    both: TwoParameters,
}

/// Both parameters get the same gradient tensor from autograd, or views of the same tensor.
#[test]
fn gradients_share_no_memory() {
    let _serial = pipe_tests::serial();
    let sums: [Sum; 4] = [
        |a, b| a + b,
        |a, b| a.tr() + b.tr(),
        |a, b| (a.view([64]) + b.view([64])).view([8, 8]),
        |a, b| (a.view([64]) + b).view([8, 8]),
    ];
    for (index, sum) in sums.into_iter().enumerate() {
        for (linear, train_step) in [(false, false), (false, true), (true, false), (true, true)] {
            let vars = Aliased::vars(&Devices::cpu(1)).unwrap();
            let path = vars.both();
            let b: &[i64] = if index == 3 { &[64] } else { &[8, 8] };
            let both = TwoParameters { a: path.ones("a", &[8, 8]), b: path.ones("b", b), sum, linear };
            let mut pipe = Aliased { both }.pipe(&vars).build().unwrap();
            let x = rows(8).ones_like();
            for _ in 0..2 {
                if train_step {
                    pipe.train_step(&x, (), |y, (): &()| y.sum(Kind::Float)).unwrap();
                } else {
                    pipe.forward(&x).unwrap().sum(Kind::Float).backward();
                }
            }
            let variables = vars.var_store().variables();
            for name in ["both.a", "both.b"] {
                let expected = variables[name].ones_like() * if linear { 16. } else { 2. };
                assert_eq!(
                    variables[name].grad(),
                    expected,
                    "{name}, sum {index}, linear {linear}, train_step {train_step}"
                );
            }
        }
    }
}

/// A layer that runs a block twice, which is a separate model, and then draws random numbers.
struct Nesting(Noisy);

#[pipeline(chunks = 1)]
struct Noisy {
    drop: FuncT<'static>,
}

impl Layer<Tensor> for Nesting {
    type Out = Tensor;

    fn run(&self, x: Tensor, cx: &Context) -> Tensor {
        let a = self.0.run(x.shallow_clone(), cx);
        let b = self.0.run(x.shallow_clone(), cx);
        let c = self.0.unpipelined().forward(&x).unwrap();
        let d = x.ones_like().dropout(0.5, true);
        Tensor::cat(&[a, b, c, x * d], 1)
    }
}

#[pipeline(chunks = 2)]
struct Nested {
    #[device("cpu")]
    first: Linear,
    #[device("cpu")]
    nesting: Nesting,
}

#[test]
fn layers_inside_a_layer_have_random_numbers_of_their_own_and_the_same_again() {
    let _serial = pipe_tests::serial();
    let mut expected: Option<(Tensor, Tensor)> = None;
    for mode in MODES {
        tch::manual_seed(5);
        let vars = Nested::vars(&Devices::cpu(2)).unwrap();
        let nesting = Nesting(Noisy { drop: dropout(0.5) });
        let model = Nested { first: linear(vars.first(), 8, 32), nesting };
        let mut pipe = model.pipe(&vars).checkpoint(mode).intra_op_threads(1).build().unwrap();
        let x = leaf(8);
        let y = pipe.forward(&x).unwrap();
        let masks: Vec<Tensor> = y.ne(0.).chunk(4, 1);
        for a in 0..4 {
            for b in 0..a {
                assert_ne!(masks[a], masks[b], "{a} and {b} have the same mask");
            }
        }
        y.sum(Kind::Float).backward();
        let found = (y.detach(), x.grad());
        let (output, gradient) = expected.get_or_insert_with(|| (found.0.copy(), found.1.copy()));
        assert_eq!((&found.0, &found.1), (&*output, &*gradient), "{mode}");
    }
}

/// A layer that differentiates inside: it computes the gradient of its input's square.
struct Inner;

impl Layer<Tensor> for Inner {
    type Out = Tensor;

    fn run(&self, x: Tensor, _cx: &Context) -> Tensor {
        let leaf = x.detach().set_requires_grad(true);
        let found = Tensor::run_backward(&[leaf.square().sum(Kind::Float)], &[&leaf], false, false);
        x + &found[0]
    }
}

#[pipeline(chunks = 2, allow(single_stage))]
struct Differentiating {
    #[device("cpu")]
    inner: Inner,
}

#[test]
fn a_layer_may_differentiate_inside_where_nothing_else_is_trained() {
    let _serial = pipe_tests::serial();
    let vars = Differentiating::vars(&Devices::cpu(1)).unwrap();
    let mut pipe = Differentiating { inner: Inner }.pipe(&vars).build().unwrap();
    let x = rows(4);
    assert_eq!(pipe.forward(&x).unwrap(), &x * 3.);
}

#[test]
fn a_parameter_shared_by_layers_of_one_device_gets_the_gradients_of_all() {
    #[pipeline(chunks = 2)]
    struct Tied {
        #[device("cpu")]
        first: Linear,
        #[device("cpu")]
        middle: Func<'static>,
        #[device("cpu")]
        last: Linear,
    }

    let _serial = pipe_tests::serial();
    for mode in MODES {
        tch::manual_seed(3);
        let vars = Tied::vars(&Devices::cpu(3)).unwrap();
        let first = linear(vars.first(), 8, 8);
        let last = Linear { ws: first.ws.shallow_clone(), bs: None };
        let model = Tied { first, middle: func(Tensor::tanh), last };
        let x = rows(6);
        let parameters = [&model.first.ws, model.first.bs.as_ref().unwrap()].map(Tensor::shallow_clone);
        let gradients = |y: Tensor| Tensor::run_backward(&[y.square().sum(Kind::Float)], &parameters, false, false);
        let expected = gradients(model.unpipelined().forward(&x).unwrap());
        let found = gradients(model.pipe(&vars).checkpoint(mode).build().unwrap().forward(&x).unwrap());
        for (found, expected) in found.iter().zip(&expected) {
            assert!(found.allclose(expected, 1e-6, 1e-6, false), "{mode}");
        }
    }
}

#[test]
fn parameters_may_be_cast() {
    let _serial = pipe_tests::serial();
    let (model, vars) = two(Tensor::relu);
    vars.var_store().root().double();
    let mut pipe = model.pipe(&vars).build().unwrap();
    let y = pipe.forward(rows(4).to_kind(Kind::Double)).unwrap();
    assert_eq!(y.kind(), Kind::Double);
    y.sum(Kind::Double).backward();
    assert!(vars.var_store().trainable_variables().iter().all(|parameter| parameter.grad().kind() == Kind::Double));
}
