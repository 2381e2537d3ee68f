//! Graphs that leave their pass, and gradients of more than one kind.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::*;

type Door = Arc<Mutex<Option<Tensor>>>;

/// Creates a layer that leaves the mean of its squared input in a cell.
fn leaves(door: &Door, detached: bool) -> Func<'static> {
    let door = Arc::clone(door);
    func(move |x| {
        let left = x.square().mean(Kind::Float);
        *door.lock().unwrap() = Some(if detached { left.detach() } else { left });
        x.tanh()
    })
}

fn taken(door: &Door) -> Tensor {
    door.lock().unwrap().as_ref().unwrap().shallow_clone()
}

fn says_how_to_send_it(error: &str) {
    assert!(error.contains("a value has left its stage by a side door"), "{error}");
    for way in ["`#[stash(..)]`", "`#[lend(..)]`", "`Sum`, `Mean`", "`#[sum(..)]`"] {
        assert!(error.contains(way), "{error}");
    }
}

#[test]
fn a_value_that_the_loss_takes_from_a_layers_cell_is_an_error_each_time() {
    let _serial = pipe_tests::serial();
    for (mode, chunks) in MODES.into_iter().flat_map(|mode| [1, 4].map(|chunks| (mode, chunks))) {
        for method in [ScheduleKind::GPipe, ScheduleKind::OneFOneB, ScheduleKind::ZbH1] {
            for _ in 0..20 {
                let door = Door::default();
                let (net, vars) = net(leaves(&door, false));
                let mut pipe = net.pipe(&vars).checkpoint(mode).chunks(chunks).schedule(method).build().unwrap();
                let step = pipe.train_step(rows(8), rows(8), |output, y: &Tensor| mse(output, y) + taken(&door) * 0.1);
                says_how_to_send_it(&step.unwrap_err().to_string());
                assert_eq!(trained(&vars), 0);
            }
        }
    }
}

/// The value's graph is the stage's own, or one of the weights alone: nothing of the step runs that
/// one again, so libtorch has nothing to say about it.
#[test]
fn a_value_that_the_loss_takes_while_its_layer_still_runs_is_an_error() {
    let _serial = pipe_tests::serial();
    for of_weights in [false, true] {
        let (door, is_taken) = (Door::default(), Arc::new(AtomicBool::new(false)));
        let (left, seen, weight) = (Arc::clone(&door), Arc::clone(&is_taken), Arc::new(Mutex::new(None::<Tensor>)));
        let (calls, known) = (AtomicUsize::new(0), Arc::clone(&weight));
        // In the second micro-batch, the layer goes on when the loss of the first one has the value
        // and, most likely, its backward is done.
        let middle = func(move |x| {
            if calls.fetch_add(1, Ordering::Relaxed) == 1 {
                let weight = known.lock().unwrap().as_ref().unwrap().shallow_clone();
                let of = if of_weights { &weight } else { x };
                *left.lock().unwrap() = Some(of.square().mean(Kind::Float));
                wait_until(|| seen.load(Ordering::Acquire));
                thread::sleep(Duration::from_millis(300));
            }
            x.tanh()
        });
        let (net, vars) = net(middle);
        *weight.lock().unwrap() = Some(net.first.ws.shallow_clone());
        let pipe = net.pipe(&vars).checkpoint(Checkpoint::Never).chunks(2).schedule(ScheduleKind::OneFOneB);
        let step = pipe.build().unwrap().train_step(rows(8), rows(8), |output, y: &Tensor| {
            let loss = mse(output, y);
            if is_taken.load(Ordering::Acquire) {
                return loss;
            }
            wait_until(|| door.lock().unwrap().is_some());
            let taken = taken(&door);
            is_taken.store(true, Ordering::Release);
            loss + taken * 0.1
        });
        says_how_to_send_it(&step.unwrap_err().to_string());
        assert_eq!(trained(&vars), 0);
    }
}

/// Waits for another thread, for at most ten seconds.
fn wait_until(is_so: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(Instant::now() < end, "the other thread never came");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_value_that_the_caller_takes_from_a_layers_cell_is_an_error_and_changes_nothing() {
    let _serial = pipe_tests::serial();
    for (mode, wants) in MODES.into_iter().flat_map(|mode| [false, true].map(|wants| (mode, wants))) {
        let door = Door::default();
        let (net, vars) = net(leaves(&door, false));
        let mut pipe = net.pipe(&vars).checkpoint(mode).build().unwrap();
        let x = rows(8).set_requires_grad(wants);
        // The value is used together with the output, alone, and for the gradients of given
        // variables.
        let loss = pipe.forward(&x).unwrap().mean(Kind::Float) + taken(&door);
        says_how_to_send_it(&loss.f_backward().unwrap_err().to_string());
        let _ = pipe.forward(&x).unwrap();
        says_how_to_send_it(&taken(&door).f_backward().unwrap_err().to_string());
        let loss = pipe.forward(&x).unwrap().mean(Kind::Float) + taken(&door);
        let variables = vars.var_store().trainable_variables();
        says_how_to_send_it(&Tensor::f_run_backward(&[loss], &variables, false, false).unwrap_err().to_string());
        assert_eq!(trained(&vars), 0);
        assert!(!x.grad().defined());
        // The pipeline still works, and so does a graph that takes another way.
        pipe.forward(&x).unwrap().mean(Kind::Float).backward();
        assert_eq!(trained(&vars), 4);
    }
}

#[test]
fn a_detached_value_may_leave() {
    let _serial = pipe_tests::serial();
    for mode in MODES {
        let door = Door::default();
        let (net, vars) = net(leaves(&door, true));
        let mut pipe = net.pipe(&vars).checkpoint(mode).build().unwrap();
        pipe.train_step(rows(8), rows(8), |output, y: &Tensor| mse(output, y) * (taken(&door) + 1.)).unwrap();
        assert_eq!(trained(&vars), 4);
    }
}

#[test]
fn a_penalty_on_the_variables_themselves_is_as_in_plain() {
    let _serial = pipe_tests::serial();
    for mode in MODES {
        let (net, vars) = net(func(Tensor::tanh));
        let ws = [net.first.ws.shallow_clone(), net.last.ws.shallow_clone()];
        let penalty = move || ws.iter().map(|w| w.square().sum(Kind::Float) * 0.01).sum::<Tensor>();
        let (x, y) = (rows(8), rows(8));
        let plain = mse(&x.apply(&net.first).tanh().apply(&net.last), &y) + penalty();
        let variables = vars.var_store().trainable_variables();
        let expected = Tensor::run_backward(&[plain], &variables, false, false);
        let mut pipe = net.pipe(&vars).checkpoint(mode).build().unwrap();
        let close = |found: &[Tensor]| {
            found.iter().zip(&expected).all(|(found, expected)| found.allclose(expected, 1e-4, 1e-6, false))
        };
        pipe.train_step(&x, &y, |output, y: &Tensor| mse(output, y) + penalty()).unwrap();
        assert!(close(&variables.iter().map(Tensor::grad).collect::<Vec<_>>()), "{mode}: train_step");
        variables.iter().for_each(|variable| variable.shallow_clone().zero_grad());
        (mse(&pipe.forward(&x).unwrap(), &y) + penalty()).backward();
        assert!(close(&variables.iter().map(Tensor::grad).collect::<Vec<_>>()), "{mode}: forward");
    }
}

#[pipeline(output = (Tensor, Mean), chunks = 4)]
struct SendsItAlong {
    #[device("cpu")]
    first: Linear,
    #[stash(size)]
    measure: Measure,
    #[device("cpu")]
    last: Linear,
    #[pop(size)]
    end: End,
}

struct Measure;

impl Layer<Tensor> for Measure {
    type Out = (Tensor, Tensor);

    fn run(&self, x: Tensor, _cx: &Context) -> Self::Out {
        (x.tanh(), x.square().mean(Kind::Float))
    }
}

struct End;

impl Layer<(Tensor, Tensor)> for End {
    type Out = (Tensor, Mean);

    fn run(&self, (x, size): (Tensor, Tensor), _cx: &Context) -> Self::Out {
        (x, Mean(size))
    }
}

#[test]
fn what_is_sent_along_as_the_error_says_trains_as_in_plain() {
    let _serial = pipe_tests::serial();
    for mode in MODES {
        tch::manual_seed(3);
        let vars = SendsItAlong::vars(&Devices::cpu(2)).unwrap();
        let (first, last) = (linear(vars.first(), 8, 8), linear(vars.last(), 8, 8));
        let (x, y) = (rows(8), rows(8));
        let h = x.apply(&first);
        let plain = mse(&h.tanh().apply(&last), &y) + h.square().mean(Kind::Float) * 0.1;
        let variables = vars.var_store().trainable_variables();
        let expected = Tensor::run_backward(&[plain], &variables, false, false);
        let net = SendsItAlong { first, measure: Measure, last, end: End };
        let mut pipe = net.pipe(&vars).checkpoint(mode).build().unwrap();
        pipe.train_step(&x, &y, |(output, size), y: &Tensor| mse(output, y) + &size.0 * 0.1).unwrap();
        for (variable, expected) in variables.iter().zip(&expected) {
            assert!(variable.grad().allclose(expected, 1e-4, 1e-6, false), "{mode}");
        }
    }
}

#[test]
fn a_layers_own_backward_may_not_end_at_the_pipelines_variables() {
    let _serial = pipe_tests::serial();
    for mode in MODES {
        let vars = Net::vars(&Devices::cpu(2)).unwrap();
        let w = vars.middle().ones("w", &[8]);
        let middle = func(move |x| {
            // Plain tch would add to the variable's gradient here, in each pass.
            (x.detach() * &w).sum(Kind::Float).backward();
            x * &w
        });
        let net = Net { first: linear(vars.first(), 8, 8), middle, last: linear(vars.last(), 8, 8) };
        let mut pipe = net.pipe(&vars).checkpoint(mode).build().unwrap();
        let error = pipe.forward(rows(8)).unwrap_err().to_string();
        assert!(error.contains("stage 0, layer `middle`") && error.contains("run_backward"), "{error}");
        assert_eq!(trained(&vars), 0);
    }
}

#[test]
fn a_forgotten_leaf_that_was_mended_is_forgotten() {
    let _serial = pipe_tests::serial();
    let held = leaf(1);
    let own = held.shallow_clone();
    let (net, vars) = net(func(move |x| x * own.tanh()));
    let mut pipe = net.pipe(&vars).build().unwrap();
    assert!(pipe.train_step(rows(8), rows(8), mse).is_err());
    let _ = held.set_requires_grad(false);
    pipe.train_step(rows(8), rows(8), mse).unwrap();
    assert_eq!(trained(&vars), 4);
}

#[test]
fn one_weight_with_a_sparse_and_a_dense_gradient_is_as_in_plain() {
    let _serial = pipe_tests::serial();
    let look = |x: &Tensor, w: &Tensor| {
        let scores = x.matmul(&w.tr());
        let token = scores.argmax(-1, false);
        x + Tensor::embedding(w, &token, -1, false, true) + scores.mean_dim([-1_i64].as_slice(), true, Kind::Float)
    };
    for (mode, method) in
        MODES.into_iter().flat_map(|mode| [ScheduleKind::GPipe, ScheduleKind::OneFOneB].map(|m| (mode, m)))
    {
        let vars = SavesNothing::vars(&Devices::cpu(2)).unwrap();
        let w = vars.first().randn("w", &[11, 8], 0., 1.);
        let last = linear(vars.last(), 8, 8);
        let (x, y) = (rows(4), rows(4));
        mse(&look(&x, &w).apply(&last), &y).backward();
        let expected = w.grad().copy();
        vars.var_store().trainable_variables().iter().for_each(|variable| variable.shallow_clone().zero_grad());
        let own = w.shallow_clone();
        let net = SavesNothing { first: func(move |x| look(x, &own)), last };
        let mut pipe = net.pipe(&vars).checkpoint(mode).schedule(method).build().unwrap();
        pipe.train_step(&x, &y, mse).unwrap();
        assert!(
            w.grad().to_dense(None, false).allclose(&expected.to_dense(None, false), 1e-5, 1e-6, false),
            "{mode}, {method}"
        );
    }
}

/// A pipeline that trains in the loss, or in a layer, of another one may use what was made around
/// it, of its own variables too.
#[test]
fn a_pipeline_trains_inside_of_another_one() {
    let _serial = pipe_tests::serial();
    for (mode, in_layer) in MODES.into_iter().flat_map(|mode| [false, true].map(|in_layer| (mode, in_layer))) {
        let (inner, inner_vars) = net(func(Tensor::tanh));
        let weight = inner.first.ws.shallow_clone();
        let penalty = move || weight.square().sum(Kind::Float) * 0.01;
        let (x, y) = (rows(8), rows(8));
        let plain = mse(&x.apply(&inner.first).tanh().apply(&inner.last), &y) + penalty();
        let variables = inner_vars.var_store().trainable_variables();
        let expected = Tensor::run_backward(&[plain], &variables, false, false);
        let mut inner = inner.pipe(&inner_vars).checkpoint(mode).chunks(1).build().unwrap();
        let (of_inner, of_target, mut is_trained) = (x.shallow_clone(), y.shallow_clone(), false);
        let train = Arc::new(Mutex::new(move || {
            if !std::mem::replace(&mut is_trained, true) {
                let penalty = penalty();
                let loss = |output: &Tensor, y: &Tensor| mse(output, y) + &penalty;
                inner.train_step(&of_inner, &of_target, loss).unwrap();
            }
        }));
        let trains = in_layer.then(|| Arc::clone(&train));
        let (outer, outer_vars) = net(func(move |x| {
            trains.iter().for_each(|train| (train.lock().unwrap())());
            x.tanh()
        }));
        let plain = mse(&x.apply(&outer.first).tanh().apply(&outer.last), &y);
        let outer_variables = outer_vars.var_store().trainable_variables();
        let of_outer = Tensor::run_backward(&[plain], &outer_variables, false, false);
        let mut outer = outer.pipe(&outer_vars).checkpoint(mode).chunks(2).build().unwrap();
        outer
            .train_step(&x, &y, |output, y: &Tensor| {
                (train.lock().unwrap())();
                mse(output, y)
            })
            .unwrap();
        for (variable, expected) in variables.iter().chain(&outer_variables).zip(expected.iter().chain(&of_outer)) {
            assert!(variable.grad().allclose(expected, 1e-4, 1e-6, false), "{mode}, in a layer: {in_layer}");
        }
    }
}

/// The gradient of an outer stage's value does not come back from an inner pipeline.
#[test]
fn a_value_of_an_outer_stage_in_the_loss_of_an_inner_pipeline_is_an_error() {
    let _serial = pipe_tests::serial();
    for mode in MODES {
        let (inner, inner_vars) = net(func(Tensor::tanh));
        let mut inner = inner.pipe(&inner_vars).checkpoint(mode).chunks(1).build().unwrap();
        let (outer, outer_vars) = net(func(Tensor::tanh));
        let mut outer = outer.pipe(&outer_vars).checkpoint(mode).chunks(1).build().unwrap();
        let mut error = String::new();
        outer
            .train_step(rows(8), rows(8), |output, y: &Tensor| {
                let step = inner
                    .train_step(rows(8), rows(8), |of_inner, y: &Tensor| mse(of_inner, y) + output.mean(Kind::Float));
                error = step.unwrap_err().to_string();
                mse(output, y)
            })
            .unwrap();
        assert!(error.contains("a `backward()` inside of a layer comes to"), "{error}");
        assert_eq!((trained(&inner_vars), trained(&outer_vars)), (0, 4));
    }
}
