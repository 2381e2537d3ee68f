//! Faults that would go by without a word: each is as in plain tch here, or an error that says
//! what to do.

use std::cell::Cell;
use std::sync::{Arc, Mutex};

use pipe_runtime::nn::DeferredBatchNorm;
use pipe_runtime::{Carried, Checkpoint, Context, Devices, Layer, Mean, Method, Pipe, Reduction, pipeline};
use pipe_tests::compare::{leaf, rows};
use pipe_tests::layers::{dropout, func, linear};
use tch::nn::{self, BatchNorm, Func, FuncT, Linear};
use tch::{Kind, Tensor};

const MODES: [Checkpoint; 3] = [Checkpoint::Always, Checkpoint::ExceptLast, Checkpoint::Never];

#[pipeline(chunks = 4)]
struct Net {
    #[device("cpu")]
    first: Linear,
    middle: Func<'static>,
    #[device("cpu")]
    last: Linear,
}

fn net(middle: Func<'static>) -> (Net, NetVars) {
    tch::manual_seed(3);
    let vars = Net::vars(&Devices::cpu(2)).unwrap();
    (Net { first: linear(vars.first(), 8, 8), middle, last: linear(vars.last(), 8, 8) }, vars)
}

fn pipe(mode: Checkpoint) -> (Pipe<Net>, NetVars) {
    let (net, vars) = net(func(Tensor::tanh));
    (net.pipe(&vars).checkpoint(mode).intra_op_threads(1).build().unwrap(), vars)
}

/// How many variables have a gradient.
fn trained(vars: &NetVars) -> usize {
    vars.all().trainable_variables().iter().filter(|variable| variable.grad().defined()).count()
}

fn mse(output: &Tensor, y: &Tensor) -> Tensor {
    output.mse_loss(y, tch::Reduction::Mean)
}

// What the user counts.

#[test]
fn the_loss_closure_runs_once_for_each_micro_batch_and_may_change_what_it_captures() {
    let _serial = pipe_tests::serial();
    for method in [Method::GPipe, Method::OneFOneB, Method::ZbH1, Method::ZbH2] {
        for (mode, count) in MODES.into_iter().flat_map(|mode| [1, 3, 8].map(|count| (mode, count))) {
            let (net, vars) = net(func(Tensor::tanh));
            let mut pipe = net.pipe(&vars).checkpoint(mode).schedule(method).build().unwrap();
            let (mut counted, mut losses) = (0, Vec::new());
            let x = rows(count);
            let report = pipe.train_step(&x, &x, |output, y: &Tensor| {
                counted += output.size()[0];
                let loss = mse(output, y);
                losses.push(f64::try_from(&loss).unwrap());
                loss
            });
            let report = report.unwrap();
            assert_eq!(counted, count, "{method}, {mode}");
            let reported: Vec<f64> = report.losses.iter().map(|loss| loss.double_value(&[])).collect();
            assert_eq!(losses, reported);
        }
    }
}

/// Counts its passes.
struct Counts(Arc<Mutex<[usize; 2]>>);

impl Layer<Tensor> for Counts {
    type Out = Tensor;

    fn forward(&self, x: Tensor, cx: &Context) -> Tensor {
        self.0.lock().unwrap()[usize::from(cx.is_recomputing())] += 1;
        x * 1.
    }
}

#[pipeline(chunks = 4)]
struct Counting {
    #[device("cpu")]
    first: Linear,
    #[device("cpu")]
    counts: Counts,
}

#[test]
fn a_backward_right_after_its_forward_recomputes_nothing() {
    let _serial = pipe_tests::serial();
    for (method, recomputed) in [(Method::OneFOneB, 0), (Method::ZbH1, 0), (Method::GPipe, 3)] {
        let count = Arc::new(Mutex::new([0; 2]));
        let vars = Counting::vars(&Devices::cpu(2)).unwrap();
        let net = Counting { first: linear(vars.first(), 8, 8), counts: Counts(Arc::clone(&count)) };
        let mut pipe = net.pipe(&vars).checkpoint(Checkpoint::Always).schedule(method).build().unwrap();
        pipe.train_step(rows(8), rows(8), mse).unwrap();
        assert_eq!(*count.lock().unwrap(), [4, recomputed], "{method}");
    }
}

// Memory of the caller's.

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
        // Filled again and run again, it trains.
        pipe.forward(&x).unwrap().sum(Kind::Float).backward();
        assert_eq!(trained(&vars), 4);
    }
}

#[pipeline(chunks = 2)]
struct SavesNothing {
    #[device("cpu")]
    first: Func<'static>,
    #[device("cpu")]
    last: Linear,
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

// State that moves.

/// Moves a variable of its own halfway to the mean of what passes.
struct Centre(Tensor);

impl Layer<Tensor> for Centre {
    type Out = Tensor;

    fn forward(&self, x: Tensor, _cx: &Context) -> Tensor {
        let moved = tch::no_grad(|| &self.0 * 0.5 + x.mean_dim([0_i64].as_slice(), false, Kind::Float) * 0.5);
        self.0.data().copy_(&moved);
        (x - self.0.copy()).square()
    }
}

#[pipeline(chunks = 3)]
struct Centred {
    #[device("cpu")]
    scale: Func<'static>,
    #[device("cpu")]
    centre: Centre,
    fails: Func<'static>,
}

#[test]
fn a_frozen_variable_that_a_layer_moves_is_moved_once_and_put_back_after_a_failure() {
    let _serial = pipe_tests::serial();
    for mode in MODES {
        let vars = Centred::vars(&Devices::cpu(2)).unwrap();
        let centre = vars.centre().zeros("c", &[8]).set_requires_grad(false);
        let scale = vars.scale().ones("s", &[8]);
        let (factor, fails) = (scale.shallow_clone(), Arc::new(Mutex::new(true)));
        let trigger = Arc::clone(&fails);
        let fails_once = func(move |x| {
            if std::mem::take(&mut *trigger.lock().unwrap()) {
                std::panic::resume_unwind(Box::new("on purpose"));
            }
            x * 1.
        });
        let net =
            Centred { scale: func(move |x| x * &factor), centre: Centre(centre.shallow_clone()), fails: fails_once };
        let mut pipe = net.pipe(&vars).checkpoint(mode).build().unwrap();
        let x = Tensor::ones([6, 8], (Kind::Float, tch::Device::Cpu));
        assert!(pipe.forward(&x).is_err());
        assert_eq!(centre.double_value(&[0]), 0.);
        pipe.forward(&x).unwrap().sum(Kind::Float).backward();
        // 1 - 0.5^3; and 2 (1/2 + 1/4 + 1/8) for each of two rows.
        assert_eq!((centre.double_value(&[0]), scale.grad().double_value(&[0])), (0.875, 3.5), "{mode}");
    }
}

#[pipeline(chunks = 3)]
struct Normed {
    #[device("cpu")]
    norm: BatchNorm,
    #[device("cpu")]
    head: Linear,
    end: Func<'static>,
}

#[test]
fn a_variable_that_belongs_to_no_layer_is_an_error_that_names_it() {
    let vars = Normed::vars(&Devices::cpu(2)).unwrap();
    let norm = nn::batch_norm1d(vars.all().root() / "bn1", 8, Default::default());
    let net = Normed { norm, head: linear(vars.head(), 8, 2), end: func(Tensor::relu) };
    let error = net.pipe(&vars).build().unwrap_err().to_string();
    assert!(error.starts_with("the variable `bn1.bias` belongs to no layer of `Normed`"), "{error}");
}

#[test]
fn a_variable_that_another_stage_changes_is_an_error_before_it_is_changed() {
    let _serial = pipe_tests::serial();
    for mode in MODES {
        let vars = Normed::vars(&Devices::cpu(2)).unwrap();
        let norm = nn::batch_norm1d(vars.head() / "bn", 8, Default::default());
        let (mean, variance) = (norm.running_mean.shallow_clone(), norm.running_var.shallow_clone());
        let net = Normed { norm, head: linear(vars.head(), 8, 2), end: func(Tensor::relu) };
        let mut pipe = net.pipe(&vars).checkpoint(mode).build().unwrap();
        let error = pipe.forward(rows(12)).unwrap_err().to_string();
        assert!(
            error.contains("stage 0, layer `norm`: stage 0 changes the variable `head.bn.running_mean`"),
            "{error}"
        );
        assert_eq!((mean.double_value(&[0]), variance.double_value(&[0])), (0., 1.));
        // In evaluation it is only read, which is fine.
        pipe.eval();
        let _ = pipe.forward(rows(12)).unwrap();
    }
}

#[test]
fn a_variable_that_changes_and_that_another_stage_reads_is_an_error_in_the_first_call() {
    let _serial = pipe_tests::serial();
    for mode in MODES {
        let vars = Normed::vars(&Devices::cpu(2)).unwrap();
        let norm = nn::batch_norm1d(vars.norm(), 8, Default::default());
        let mean = norm.running_mean.shallow_clone();
        let seen = mean.shallow_clone();
        let end = func(move |x| x + seen.mean(Kind::Float));
        let net = Normed { norm, head: linear(vars.head(), 8, 2), end };
        let mut pipe = net.pipe(&vars).checkpoint(mode).build().unwrap();
        let error = pipe.forward(rows(12)).unwrap_err().to_string();
        assert!(
            error.contains(
                "the variable `norm.running_mean` of stage 0 is changed by its layers, and stage 1 uses it too"
            ),
            "{error}"
        );
        assert_eq!(mean.double_value(&[0]), 0.);
    }
}

#[pipeline(chunks = 4)]
struct Dropping {
    #[device("cpu")]
    drop: FuncT<'static>,
    #[device("cpu")]
    fails: Func<'static>,
}

#[test]
fn a_call_that_fails_draws_no_random_number_of_the_callers() {
    let _serial = pipe_tests::serial();
    let vars = Dropping::vars(&Devices::cpu(2)).unwrap();
    let fails = Arc::new(Mutex::new(false));
    let trigger = Arc::clone(&fails);
    let end = func(move |x| {
        if *trigger.lock().unwrap() {
            std::panic::resume_unwind(Box::new("on purpose"));
        }
        x.shallow_clone()
    });
    let mut pipe = Dropping { drop: dropout(0.5), fails: end }.pipe(&vars).build().unwrap();
    let x = rows(8);
    tch::manual_seed(9);
    let expected = pipe.forward(&x).unwrap();
    tch::manual_seed(9);
    *fails.lock().unwrap() = true;
    assert!(pipe.forward(&x).is_err());
    *fails.lock().unwrap() = false;
    assert_eq!(pipe.forward(&x).unwrap(), expected);
}

// A step that trains nothing.

#[test]
fn a_step_that_trains_nothing_is_an_error() {
    let _serial = pipe_tests::serial();
    type Loss = fn(&Tensor, &Tensor) -> Tensor;
    let losses: [(&str, Loss); 4] = [
        ("all is frozen", mse),
        ("the output is detached", |output, y| mse(&output.detach(), y)),
        ("under `no_grad`", |output, y| tch::no_grad(|| mse(output, y))),
        ("an accuracy", |output, y| {
            output.argmax(-1, false).eq_tensor(&y.argmax(-1, false)).to_kind(Kind::Float).mean(Kind::Float)
        }),
    ];
    for (mode, (name, loss)) in MODES.into_iter().flat_map(|mode| losses.map(|loss| (mode, loss))) {
        let (mut pipe, vars) = pipe(mode);
        if name == "all is frozen" {
            vars.all().variables().values().for_each(|variable| drop(variable.set_requires_grad(false)));
        }
        let error = pipe.train_step(rows(4), rows(4), loss).unwrap_err().to_string();
        assert!(error.starts_with("the step would train nothing"), "{mode}, {name}: {error}");
        assert_eq!(trained(&vars), 0);
    }
}

#[test]
fn a_step_of_which_one_micro_batch_trains_trains() {
    let _serial = pipe_tests::serial();
    let (mut pipe, vars) = pipe(Checkpoint::Always);
    let mut number = 0;
    let constant_but_once = |output: &Tensor, y: &Tensor| {
        number += 1;
        if number == 2 { mse(output, y) } else { Tensor::from(1_f32) }
    };
    pipe.train_step(rows(8), rows(8), constant_but_once).unwrap();
    assert_eq!(trained(&vars), 4);
}

// Numbers that are not numbers.

#[test]
fn statistics_that_stop_being_finite_fail_the_step_and_are_put_back() {
    let _serial = pipe_tests::serial();
    for (mode, allowed) in MODES.into_iter().flat_map(|mode| [false, true].map(|allowed| (mode, allowed))) {
        let vars = Normed::vars(&Devices::cpu(2)).unwrap();
        let norm = nn::batch_norm1d(vars.norm(), 8, Default::default());
        let variance = norm.running_var.shallow_clone();
        let net = Normed { norm, head: linear(vars.head(), 8, 8), end: func(Tensor::relu) };
        let mut pipe = net.pipe(&vars).checkpoint(mode).allow_non_finite(allowed).build().unwrap();
        // Micro-batches of 3, 3 and 1 rows: a single value has no unbiased variance.
        let step = pipe.train_step(rows(7), rows(7), mse).map(drop);
        if allowed {
            step.unwrap();
            assert!(variance.double_value(&[0]).is_nan());
            continue;
        }
        let error = step.unwrap_err().to_string();
        assert!(error.starts_with("forward of micro-batch 2 in stage 0"), "{error}");
        assert!(error.contains("`norm.running_var` is no longer finite"), "{error}");
        assert_eq!(variance.double_value(&[0]), 1.);
        assert!(pipe.forward(rows(7)).unwrap_err().to_string().contains("no longer finite"));
        pipe.train_step(rows(6), rows(6), mse).unwrap();
    }
}

#[test]
fn a_loss_that_is_no_number_fails_the_step() {
    let _serial = pipe_tests::serial();
    for mode in MODES {
        let (mut pipe, vars) = pipe(mode);
        let (x, labels) = (rows(8), Tensor::from_slice(&[0_i64, 1, -100, -100, 2, 3, 4, 5]));
        let loss =
            |output: &Tensor, y: &Tensor| output.cross_entropy_loss::<Tensor>(y, None, tch::Reduction::Mean, -100, 0.);
        let error = pipe.train_step(&x, &labels, loss).unwrap_err().to_string();
        assert!(error.contains("the loss of micro-batch 1 is not finite"), "{error}");
        assert!(error.contains("Reduction::Weighted"), "{error}");
        assert_eq!(trained(&vars), 0);
        // As it says: weighed by what counts, it is plain's.
        let counted = |y: &Tensor| y.ne(-100).sum(Kind::Double).double_value(&[]);
        let report = pipe.train_step_with(Reduction::Weighted(&counted), &x, &labels, loss).unwrap();
        let model = pipe.into_inner();
        let plain = loss(&x.apply(&model.first).tanh().apply(&model.last), &labels);
        assert!(report.loss.allclose(&plain, 1e-6, 1e-7, false));
    }
}

#[test]
fn a_loss_scaler_may_have_infinite_losses() {
    let _serial = pipe_tests::serial();
    let (net, vars) = net(func(Tensor::tanh));
    let mut pipe = net.pipe(&vars).allow_non_finite(true).build().unwrap();
    let report = pipe.train_step(rows(8), rows(8), |output, y: &Tensor| mse(output, y) * f64::INFINITY).unwrap();
    assert!(report.loss.double_value(&[]).is_infinite());
    assert_eq!(trained(&vars), 4);
}

// Values that leave by a side door.

type Door = Arc<Mutex<Option<Tensor>>>;

/// Leaves what passes (or its square) in a cell.
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
    assert!(error.contains("`Sum`, `Mean`"), "{error}");
}

#[test]
fn a_value_that_the_loss_takes_from_a_layers_cell_is_an_error_each_time() {
    let _serial = pipe_tests::serial();
    for (mode, chunks) in MODES.into_iter().flat_map(|mode| [1, 4].map(|chunks| (mode, chunks))) {
        for method in [Method::GPipe, Method::OneFOneB, Method::ZbH1] {
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

#[test]
fn a_value_that_the_caller_takes_from_a_layers_cell_is_an_error_and_changes_nothing() {
    let _serial = pipe_tests::serial();
    for (mode, wants) in MODES.into_iter().flat_map(|mode| [false, true].map(|wants| (mode, wants))) {
        let door = Door::default();
        let (net, vars) = net(leaves(&door, false));
        let mut pipe = net.pipe(&vars).checkpoint(mode).build().unwrap();
        let x = rows(8).set_requires_grad(wants);
        // Beside the output, alone, and asked for by name.
        let loss = pipe.forward(&x).unwrap().mean(Kind::Float) + taken(&door);
        says_how_to_send_it(&loss.f_backward().unwrap_err().to_string());
        let _ = pipe.forward(&x).unwrap();
        says_how_to_send_it(&taken(&door).f_backward().unwrap_err().to_string());
        let loss = pipe.forward(&x).unwrap().mean(Kind::Float) + taken(&door);
        let variables = vars.all().trainable_variables();
        says_how_to_send_it(&Tensor::f_run_backward(&[loss], &variables, false, false).unwrap_err().to_string());
        assert_eq!(trained(&vars), 0);
        assert!(!x.grad().defined());
        // The pipeline is as good as ever, and so is a graph that takes another way.
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
        let variables = vars.all().trainable_variables();
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

    fn forward(&self, x: Tensor, _cx: &Context) -> Self::Out {
        (x.tanh(), x.square().mean(Kind::Float))
    }
}

struct End;

impl Layer<(Tensor, Tensor)> for End {
    type Out = (Tensor, Mean);

    fn forward(&self, (x, size): (Tensor, Tensor), _cx: &Context) -> Self::Out {
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
        let variables = vars.all().trainable_variables();
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
            // Plain tch would add to the variable's gradient here, once for each pass.
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

// Gradients of mixed layout.

#[test]
fn one_weight_with_a_sparse_and_a_dense_gradient_is_as_in_plain() {
    let _serial = pipe_tests::serial();
    let look = |x: &Tensor, w: &Tensor| {
        let scores = x.matmul(&w.tr());
        let token = scores.argmax(-1, false);
        x + Tensor::embedding(w, &token, -1, false, true) + scores.mean_dim([-1_i64].as_slice(), true, Kind::Float)
    };
    for (mode, method) in MODES.into_iter().flat_map(|mode| [Method::GPipe, Method::OneFOneB].map(|m| (mode, m))) {
        let vars = SavesNothing::vars(&Devices::cpu(2)).unwrap();
        let w = vars.first().randn("w", &[11, 8], 0., 1.);
        let last = linear(vars.last(), 8, 8);
        let (x, y) = (rows(4), rows(4));
        mse(&look(&x, &w).apply(&last), &y).backward();
        let expected = w.grad().copy();
        vars.all().trainable_variables().iter().for_each(|variable| variable.shallow_clone().zero_grad());
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

/// A cell of the test's own: closures of `train_step` need not be `Fn`.
#[test]
fn the_callers_cells_count_too() {
    let _serial = pipe_tests::serial();
    let (mut pipe, _vars) = pipe(Checkpoint::Always);
    let count = Cell::new(0);
    let x = rows(7);
    pipe.train_step(&x, &x, |output, y: &Tensor| {
        count.set(count.get() + output.size()[0]);
        mse(output, y)
    })
    .unwrap();
    assert_eq!(count.get(), 7);
    // `Carried` is `Send`, and says so when it is part of a model.
    fn is_send<T: Send>(_: &T) {}
    is_send(&Carried::<Tensor>::new());
}

// After a failure, or an error that was mended.

/// A failing call draws no number, so the next one has the same seed: it is another call all the
/// same.
#[pipeline(chunks = 3)]
struct Deferred {
    #[device("cpu")]
    norm: DeferredBatchNorm,
    #[device("cpu")]
    fails: Func<'static>,
}

#[test]
fn the_statistics_of_a_failed_call_are_no_part_of_the_next_ones() {
    let _serial = pipe_tests::serial();
    let x = rows(6);
    let expected = x.var_dim([0_i64].as_slice(), true, false) * 0.1 + 0.9;
    for mode in MODES {
        let fails = Arc::new(Mutex::new(true));
        let trigger = Arc::clone(&fails);
        let end = func(move |x| {
            if std::mem::take(&mut *trigger.lock().unwrap()) {
                std::panic::resume_unwind(Box::new("on purpose"));
            }
            x * 1.
        });
        let vars = Deferred::vars(&Devices::cpu(2)).unwrap();
        let norm = DeferredBatchNorm::new1d(vars.norm(), 8, Default::default());
        let mut pipe = Deferred { norm, fails: end }.pipe(&vars).checkpoint(mode).build().unwrap();
        assert!(pipe.forward(rows(6) * 100.).is_err());
        let _ = pipe.forward(&x).unwrap();
        let found = vars.all().variables()["norm.running_var"].shallow_clone();
        assert!(found.allclose(&expected, 1e-5, 1e-6, false), "{mode}");
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

/// Keeps a view of its weight from its first forward on.
struct Caches(Tensor, std::cell::OnceCell<Tensor>);

impl Layer<Tensor> for Caches {
    type Out = Tensor;

    fn forward(&self, x: Tensor, _cx: &Context) -> Tensor {
        x.matmul(self.1.get_or_init(|| self.0.tr()))
    }
}

#[pipeline(chunks = 4)]
struct Caching {
    #[device("cpu")]
    first: Linear,
    caches: Caches,
    #[device("cpu")]
    last: Linear,
}

#[test]
fn a_view_of_a_weight_may_be_kept() {
    let _serial = pipe_tests::serial();
    for mode in MODES {
        let vars = Caching::vars(&Devices::cpu(2)).unwrap();
        let (first, last) = (linear(vars.first(), 8, 8), linear(vars.last(), 8, 8));
        let w = vars.caches().randn("w", &[8, 8], 0., 1.);
        let (x, y) = (rows(8), rows(8));
        let plain = mse(&x.apply(&first).matmul(&w.tr()).apply(&last), &y);
        let expected = Tensor::run_backward(&[plain], &[&w], false, false).remove(0);
        let net = Caching { first, caches: Caches(w.shallow_clone(), Default::default()), last };
        let mut pipe = net.pipe(&vars).checkpoint(mode).build().unwrap();
        for step in 1..=2 {
            pipe.train_step(&x, &y, mse).unwrap();
            assert!(w.grad().allclose(&(&expected * step), 1e-4, 1e-6, false), "{mode}, step {step}");
        }
    }
}

struct OnePart;

impl Layer<(Tensor, Tensor)> for OnePart {
    type Out = Tensor;

    fn forward(&self, (x, y): (Tensor, Tensor), _cx: &Context) -> Tensor {
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

#[test]
fn a_leaf_of_the_closures_own_is_no_training() {
    let _serial = pipe_tests::serial();
    let (mut pipe, vars) = pipe(Checkpoint::Never);
    let error = pipe.train_step(rows(8), rows(8), |output, y: &Tensor| {
        let scale = Tensor::ones([1], (Kind::Float, y.device())).set_requires_grad(true);
        mse(&(output.detach() * scale), y)
    });
    assert!(error.unwrap_err().to_string().starts_with("the step would train nothing"));
    assert_eq!(trained(&vars), 0);
}

/// Statistics by the operator that has no flag to say whether it updates them.
struct Updates([Tensor; 2]);

impl Layer<Tensor> for Updates {
    type Out = Tensor;

    fn forward(&self, x: Tensor, _cx: &Context) -> Tensor {
        let [mean, variance] = &self.0;
        let _ = tch::no_grad(|| Tensor::batch_norm_update_stats(&x.detach(), Some(mean), Some(variance), 0.1));
        x * 1.
    }
}

#[pipeline(chunks = 3)]
struct Updating {
    #[device("cpu")]
    first: Linear,
    updates: Updates,
    #[device("cpu")]
    fails: Func<'static>,
}

#[test]
fn statistics_of_every_operator_are_updated_once_and_put_back() {
    let _serial = pipe_tests::serial();
    for (mode, fails) in MODES.into_iter().flat_map(|mode| [false, true].map(|fails| (mode, fails))) {
        let vars = Updating::vars(&Devices::cpu(2)).unwrap();
        let mean = vars.updates().zeros_no_train("running_mean", &[8]);
        let variance = vars.updates().ones_no_train("running_var", &[8]);
        let mut first = linear(vars.first(), 8, 8);
        let _ = tch::no_grad(|| first.ws.fill_(0.));
        let _ = tch::no_grad(|| first.bs.as_mut().unwrap().fill_(1.));
        let end = func(move |x| if fails { std::panic::resume_unwind(Box::new("on purpose")) } else { x * 1. });
        let updates = Updates([mean.shallow_clone(), variance]);
        let mut pipe = Updating { first, updates, fails: end }.pipe(&vars).checkpoint(mode).build().unwrap();
        match pipe.forward(rows(12)) {
            Ok(y) => y.sum(Kind::Float).backward(),
            Err(_) => assert!(fails),
        }
        // 1 - 0.9^3.
        let expected = if fails { 0. } else { 0.271 };
        assert!((mean.double_value(&[0]) - expected).abs() < 1e-6, "{mode}, {fails}: {mean:?}");
    }
}

/// Multiplies by a state that it moves: its graph saves the variable itself.
struct Follows(Tensor);

impl Layer<Tensor> for Follows {
    type Out = Tensor;

    fn forward(&self, x: Tensor, _cx: &Context) -> Tensor {
        let mean = tch::no_grad(|| &self.0 * 0.5 + x.mean_dim([0_i64].as_slice(), false, Kind::Float));
        self.0.data().copy_(&mean);
        x * &self.0
    }
}

#[pipeline(chunks = 4)]
struct Following {
    #[device("cpu")]
    first: Linear,
    follows: Follows,
    #[device("cpu")]
    last: Linear,
}

#[test]
fn a_backward_sees_the_state_that_its_forward_left() {
    let _serial = pipe_tests::serial();
    for (mode, method) in
        MODES.into_iter().flat_map(|mode| [Method::GPipe, Method::OneFOneB, Method::ZbH1].map(|method| (mode, method)))
    {
        tch::manual_seed(4);
        let vars = Following::vars(&Devices::cpu(2)).unwrap();
        let (first, last) = (linear(vars.first(), 8, 8), linear(vars.last(), 8, 8));
        let (x, y) = (rows(8), rows(8));
        // Plain, micro-batch by micro-batch, with a state of its own for each.
        let mut state = Tensor::ones([8], (Kind::Float, x.device()));
        let mut losses = Vec::new();
        for (x, y) in x.chunk(4, 0).iter().zip(y.chunk(4, 0)) {
            let h = x.apply(&first);
            state = &state * 0.5 + h.detach().mean_dim([0_i64].as_slice(), false, Kind::Float);
            losses.push(mse(&(h * &state).apply(&last), &y) / 4.);
        }
        let variables = [first.ws.shallow_clone(), last.ws.shallow_clone()];
        let expected = Tensor::run_backward(&[losses.into_iter().sum::<Tensor>()], &variables, false, false);
        let moving = vars.follows().ones_no_train("state", &[8]);
        let net = Following { first, follows: Follows(moving.shallow_clone()), last };
        let mut pipe = net.pipe(&vars).checkpoint(mode).schedule(method).build().unwrap();
        pipe.train_step(&x, &y, mse).unwrap();
        for (variable, expected) in variables.iter().zip(&expected) {
            assert!(variable.grad().allclose(expected, 1e-4, 1e-6, false), "{mode}, {method}");
        }
        assert!(moving.allclose(&state, 1e-5, 1e-6, false), "{mode}, {method}");
    }
}
