//! The caller's memory changes while stages need it.

use super::*;

#[test]
fn an_input_that_is_changed_before_the_backward_is_an_error_where_it_was_saved_or_kept() {
    let _serial = pipe_tests::serial();
    for (mode, chunks) in MODES.into_iter().flat_map(|mode| [1, 4].map(|chunks| (mode, chunks))) {
        let (net, vars) = net(func(Tensor::tanh));
        let mut pipe = net.pipe(&vars).checkpoint(mode).chunks(chunks).build().unwrap();
        let mut x = rows(8);
        let loss = pipe.forward(&x).unwrap().sum(Kind::Float);
        let _ = x.fill_(7.);
        let error = loss.f_backward().unwrap_err().to_string();
        assert!(error.contains("modified by an in"), "{mode}: {error}");
        assert_eq!(trained(&vars), 0);
        // With a new forward, it trains.
        pipe.forward(&x).unwrap().sum(Kind::Float).backward();
        assert_eq!(trained(&vars), 4);
    }
}

#[test]
fn an_input_that_nobody_saved_may_be_changed() {
    let _serial = pipe_tests::serial();
    let vars = SavesNothing::vars(&Devices::cpu(2)).unwrap();
    let net = SavesNothing { first: func(|x| x * 2.), last: linear(vars.last(), 8, 8) };
    let mut pipe = net.pipe(&vars).checkpoint(Checkpoint::Never).build().unwrap();
    let mut x = rows(4);
    let loss = pipe.forward(&x).unwrap().sum(Kind::Float);
    let _ = x.fill_(7.);
    loss.f_backward().unwrap();
}

#[test]
fn a_layer_that_changes_the_callers_input_in_place_is_seen_by_the_callers_graph() {
    let _serial = pipe_tests::serial();
    let vars = SavesNothing::vars(&Devices::cpu(2)).unwrap();
    let net = SavesNothing { first: func(|x| x.shallow_clone().relu_()), last: linear(vars.last(), 8, 8) };
    let mut pipe = net.pipe(&vars).checkpoint(Checkpoint::Never).build().unwrap();
    let (x, w) = (rows(4), leaf(1));
    let saved = (&x * &w).sum(Kind::Float);
    let _ = pipe.forward(&x).unwrap();
    let error = saved.f_backward().unwrap_err().to_string();
    assert!(error.contains("modified by an inplace operation"), "{error}");
}

#[test]
fn a_closure_that_fills_the_input_again_during_the_step_is_seen() {
    let _serial = pipe_tests::serial();
    for mode in MODES {
        let (mut pipe, vars) = pipe(mode);
        let x = rows(8);
        let mut buffer = x.shallow_clone();
        let step = pipe.train_step(&x, &x, |output, _: &Tensor| {
            let loss = output.square().mean(Kind::Float);
            let _ = buffer.fill_(7.);
            loss
        });
        let error = step.unwrap_err().to_string();
        assert!(error.contains("modified by an in"), "{mode}: {error}");
        assert_eq!(trained(&vars), 0);
    }
}

struct OnePart;

impl Layer<(Tensor, Tensor)> for OnePart {
    type Out = Tensor;

    fn run(&self, (x, y): (Tensor, Tensor), _cx: &Context) -> Tensor {
        let saved = Tensor::ones([8], (Kind::Float, x.device())).set_requires_grad(true) * &y;
        let _ = tch::no_grad(|| x.shallow_clone().fill_(0.));
        saved
    }
}

#[pipeline(input = (Tensor, Tensor), chunks = 2, checkpoint = never)]
struct Twice {
    #[device("cpu")]
    part: OnePart,
    #[device("cpu")]
    last: Linear,
}

#[test]
fn one_tensor_that_is_given_twice_is_one_tensor() {
    let _serial = pipe_tests::serial();
    let vars = Twice::vars(&Devices::cpu(2)).unwrap();
    let mut pipe = Twice { part: OnePart, last: linear(vars.last(), 8, 8) }.pipe(&vars).build().unwrap();
    let x = rows(4);
    let error = pipe.forward((&x, &x)).unwrap().sum(Kind::Float).f_backward().unwrap_err().to_string();
    assert!(error.contains("modified by an inplace operation"), "{error}");
}
