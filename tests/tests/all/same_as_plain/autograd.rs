//! The output of a pipeline is an ordinary differentiable tensor.

use pipe_runtime::{Checkpoint, Devices, Pipe, pipeline};
use pipe_tests::compare::{gradients, leaf, rows};
use pipe_tests::layers::{Merge, dropout, linear};
use tch::nn::{self, FuncT, Linear, OptimizerConfig};
use tch::{Kind, Tensor};

type Pair = (Tensor, Tensor);

#[pipeline(output = Pair, chunks = 3)]
struct Net {
    #[device("cpu")]
    #[stash(early = output)]
    first: Linear,
    drop: FuncT<'static>,
    #[device("cpu")]
    #[pop(early)]
    merge: Merge,
    second: Linear,
    pair: BothWays,
}

#[derive(Debug)]
struct BothWays;

impl pipe_runtime::Layer<Tensor> for BothWays {
    type Out = Pair;

    fn run(&self, x: Tensor, _cx: &pipe_runtime::Context) -> Pair {
        (x.sin(), x.cos())
    }
}

const MODES: [Checkpoint; 3] = [Checkpoint::Always, Checkpoint::ExceptLast, Checkpoint::Never];

fn net(vars: &NetVars) -> Net {
    Net {
        first: linear(vars.first(), 8, 8),
        drop: dropout(0.2),
        merge: Merge,
        second: linear(vars.second(), 8, 8),
        pair: BothWays,
    }
}

/// A test, which runs a given forward on the variables and returns the tensors to compare.
type Check = fn(&NetVars, &mut dyn FnMut(&Tensor) -> Pair) -> Vec<Tensor>;

/// Runs the test unpipelined, and pipelined in each mode. The results must be equal bit by bit.
fn each_mode(check: Check) {
    compare(check, |found, expected| found == expected);
}

/// Like [`each_mode`], for parameters that are also used outside the call: their gradients are
/// added in another order, so the results may differ by rounding.
fn each_mode_up_to_rounding(check: Check) {
    compare(check, |found, expected| found.allclose(expected, 1e-6, 1e-6, false));
}

fn compare(check: Check, same: fn(&Tensor, &Tensor) -> bool) {
    let _serial = pipe_tests::serial();
    tch::manual_seed(1);
    let vars = Net::vars(&Devices::cpu(Net::STAGES)).unwrap();
    let model = net(&vars);
    let expected =
        check(&vars, &mut |x| model.unpipelined().chunks(3).intra_op_threads(1).forward(x).expect("no layer fails"));
    for mode in MODES {
        let (mut pipe, vars) = pipe(mode, 1);
        let found = check(&vars, &mut |x| pipe.forward(x).expect("no layer fails"));
        assert_eq!(found.len(), expected.len());
        assert!(found.iter().zip(&expected).all(|(found, expected)| same(found, expected)), "{mode}");
    }
}

fn pipe(mode: Checkpoint, seed: i64) -> (Pipe<Net>, NetVars) {
    tch::manual_seed(seed);
    let vars = Net::vars(&Devices::cpu(Net::STAGES)).unwrap();
    let pipe = net(&vars).pipe(&vars).checkpoint(mode).intra_op_threads(1).build().unwrap();
    (pipe, vars)
}

fn input() -> Tensor {
    tch::manual_seed(2);
    leaf(7)
}

#[test]
fn gradients_of_chosen_tensors_leave_every_grad_alone() {
    each_mode(|vars, forward| {
        let x = input();
        let (sine, _) = forward(&x);
        let weight = vars.var_store().variables().remove("first.weight").unwrap();
        let found = Tensor::run_backward(&[sine.sum(Kind::Float)], &[&x, &weight], false, false);
        assert!(gradients(vars).iter().chain([&x.grad()]).all(|gradient| !gradient.defined()));
        found
    });
}

#[test]
fn a_retained_graph_can_be_walked_twice() {
    each_mode(|vars, forward| {
        let x = input();
        let (sine, cosine) = forward(&x);
        let (a, b) = (sine.sum(Kind::Float), (sine * cosine).sum(Kind::Float));
        let mut found = Tensor::run_backward(&[&a], &[&x], true, false);
        found.extend(Tensor::run_backward(&[&b], &[&x], true, false));
        b.backward();
        found.extend(gradients(vars));
        found
    });
}

#[test]
fn a_second_backward_without_keeping_the_graph_is_a_clear_error() {
    let _serial = pipe_tests::serial();
    for mode in MODES {
        let (mut pipe, vars) = pipe(mode, 1);
        let x = input();
        let (sine, cosine) = pipe.forward(&x).unwrap();
        Tensor::run_backward(&[sine.sum(Kind::Float)], &[&x], false, false);
        let error = cosine.sum(Kind::Float).f_backward().unwrap_err().to_string();
        assert!(error.contains("Trying to backward through the pipeline a second time"), "{error}");
        assert!(!gradients(&vars).iter().any(Tensor::defined));
    }
}

#[test]
fn create_graph_is_a_clear_error() {
    let _serial = pipe_tests::serial();
    let (mut pipe, _vars) = pipe(Checkpoint::Never, 1);
    let x = input();
    let (sine, _) = pipe.forward(&x).unwrap();
    let error = Tensor::f_run_backward(&[sine.sum(Kind::Float)], &[&x], true, true).unwrap_err().to_string();
    assert!(error.contains("create_graph is not supported through a pipeline"), "{error}");
    // The graph was kept, so an ordinary backward still works.
    sine.sum(Kind::Float).backward();
    assert!(x.grad().defined());
}

#[test]
fn partial_and_repeated_outputs() {
    each_mode(|vars, forward| {
        let x = input();
        let (_, cosine) = forward(&x);
        // The first output is ignored, and the second is used twice, each time in part.
        let loss = (&cosine * &cosine).narrow(0, 1, 4).sum(Kind::Float) + cosine.select(0, 6).sum(Kind::Float);
        loss.backward();
        let mut found = gradients(vars);
        found.push(x.grad());
        found
    });
}

#[test]
fn parameters_may_also_be_used_outside() {
    each_mode_up_to_rounding(|vars, forward| {
        let x = input();
        let (sine, _) = forward(&x);
        let decay = vars.var_store().trainable_variables().iter().map(|p| p.square().sum(Kind::Float)).sum::<Tensor>();
        (sine.sum(Kind::Float) + decay * 0.1).backward();
        let mut found = gradients(vars);
        found.push(x.grad());
        found
    });
}

#[test]
fn two_forwards_before_a_backward() {
    each_mode_up_to_rounding(|vars, forward| {
        let x = input();
        let (a, _) = forward(&x);
        let (b, _) = forward(&(&x * 2.));
        (a * b).sum(Kind::Float).backward();
        let mut found = gradients(vars);
        found.push(x.grad());
        found
    });
}

#[test]
fn gradients_accumulate_over_calls_until_they_are_zeroed() {
    each_mode(|vars, forward| {
        for _ in 0..3 {
            let (sine, cosine) = forward(&input());
            (sine + cosine).sum(Kind::Float).backward();
        }
        gradients(vars)
    });
}

#[test]
fn several_steps_of_an_optimizer() {
    each_mode(|vars, forward| {
        let mut optimizer = nn::Adam::default().build(vars.var_store(), 1e-2).unwrap();
        for _ in 0..4 {
            let (sine, cosine) = forward(&input());
            optimizer.backward_step(&(sine * cosine).sum(Kind::Float));
        }
        let variables = vars.var_store().variables();
        ["first.weight", "first.bias", "second.weight", "second.bias"].map(|name| variables[name].copy()).into()
    });
}

#[test]
fn nothing_is_recorded_where_no_gradient_can_be_asked_for() {
    let _serial = pipe_tests::serial();
    let (mut pipe, _vars) = pipe(Checkpoint::Always, 1);
    let (sine, cosine) = tch::no_grad(|| pipe.forward(input()).unwrap());
    assert!(!sine.requires_grad() && !cosine.requires_grad());
}

#[test]
fn frozen_parameters_get_no_gradient() {
    each_mode(|vars, forward| {
        let frozen = vars.var_store().variables().remove("first.weight").unwrap().set_requires_grad(false);
        let x = input();
        let (sine, _) = forward(&x);
        sine.sum(Kind::Float).backward();
        assert!(!frozen.grad().defined());
        vars.var_store().trainable_variables().iter().map(Tensor::grad).filter(Tensor::defined).collect()
    });
}

#[test]
fn outputs_may_be_dropped_before_a_backward() {
    let _serial = pipe_tests::serial();
    for mode in MODES {
        let (mut pipe, vars) = pipe(mode, 1);
        drop(pipe.forward(input()).unwrap());
        pipe.forward(input()).unwrap().0.sum(Kind::Float).backward();
        assert!(gradients(&vars).iter().all(Tensor::defined));
    }
}

#[test]
fn the_pipeline_may_be_dropped_before_the_backward() {
    let _serial = pipe_tests::serial();
    for mode in MODES {
        let (mut pipe, vars) = pipe(mode, 1);
        let (sine, _) = pipe.forward(input()).unwrap();
        drop(pipe);
        sine.sum(Kind::Float).backward();
        assert!(gradients(&vars).iter().all(Tensor::defined));
    }
}

#[test]
fn a_backward_after_the_model_was_taken_out_is_an_error_where_it_would_recompute() {
    let _serial = pipe_tests::serial();
    let (mut pipe, _vars) = pipe(Checkpoint::Always, 1);
    let (sine, _) = pipe.forward(input()).unwrap();
    let _model = pipe.into_inner();
    let error = sine.sum(Kind::Float).f_backward().unwrap_err().to_string();
    assert!(error.contains("the model was taken out of the pipeline"), "{error}");
}

#[test]
fn a_model_taken_out_is_the_model_put_in() {
    let _serial = pipe_tests::serial();
    let (mut pipe, _vars) = pipe(Checkpoint::Never, 1);
    pipe.eval();
    let x = rows(5);
    let piped = pipe.forward(&x).unwrap();
    let model = pipe.into_inner();
    assert_eq!(model.unpipelined().training(false).forward(&x).unwrap(), piped);
}

#[test]
fn an_input_without_gradient_gets_none() {
    let _serial = pipe_tests::serial();
    let (mut pipe, vars) = pipe(Checkpoint::ExceptLast, 1);
    let x = rows(5);
    let (sine, _) = pipe.forward(&x).unwrap();
    sine.sum(Kind::Float).backward();
    assert!(!x.grad().defined());
    assert!(gradients(&vars).iter().all(Tensor::defined));
}

#[test]
fn backward_from_another_thread() {
    let _serial = pipe_tests::serial();
    let (mut pipe, vars) = pipe(Checkpoint::ExceptLast, 1);
    let (sine, _) = pipe.forward(input()).unwrap();
    let loss = sine.sum(Kind::Float);
    std::thread::spawn(move || loss.backward()).join().unwrap();
    assert!(gradients(&vars).iter().all(Tensor::defined));
}
