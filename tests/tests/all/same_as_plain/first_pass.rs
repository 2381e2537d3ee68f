//! The first pass of a checkpointed micro-batch runs the same operators on the same values as the
//! pass that is differentiated. Every checkpoint mode is compared bit by bit with plain tch on the
//! same micro-batches.

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use pipe_runtime::{Carried, Checkpoint, Context, Devices, Layer, Replicate, pipeline};
use pipe_tests::compare::{leaf, rows};
use pipe_tests::layers::{func, linear};
use tch::nn::{self, Func, Linear, Path, RNN};
use tch::{Kind, Reduction, Tensor};

const MODES: [Checkpoint; 3] = [Checkpoint::Always, Checkpoint::ExceptLast, Checkpoint::Never];
const CHUNKS: i64 = 3;

/// The function of the layer under test, on an input `[rows, 5, 8]`.
type Body = Box<dyn Fn(&Tensor) -> Tensor + Send>;

#[pipeline(chunks = 3)]
struct Net {
    #[device("cpu")]
    first: Linear,
    odd: Func<'static>,
    #[device("cpu")]
    last: Linear,
}

/// Runs `make`'s layer between two linear ones in a pipeline and in plain tch, and compares
/// outputs and all gradients.
fn as_plain(name: &str, make: impl Fn(Path<'_>) -> Body) {
    let _serial = pipe_tests::serial();
    for (mode, rows) in MODES.into_iter().flat_map(|mode| [1, 2, 3, 7, 12].map(|rows| (mode, rows))) {
        let build = || {
            tch::manual_seed(7);
            let vars = Net::vars(&Devices::cpu(2)).unwrap();
            let first = linear(vars.first(), 8, 8);
            let last = linear(vars.last(), 8, 8);
            (first, make(vars.odd()), last, vars)
        };
        let x = Tensor::randn([rows, 5, 8], (Kind::Float, tch::Device::Cpu)).set_requires_grad(true);
        let gradients = |output: &Tensor, vars: &NetVars| {
            x.shallow_clone().zero_grad();
            output.square().sum(Kind::Float).backward();
            let leaves = vars.var_store().trainable_variables();
            let wanted = leaves.iter().chain([&x]).filter(|leaf| leaf.requires_grad());
            wanted.map(|leaf| leaf.grad().copy()).collect::<Vec<_>>()
        };
        let (first, odd, last, vars) = build();
        let parts = x.chunk(CHUNKS, 0).into_iter().map(|part| odd(&part.apply(&first)).apply(&last));
        let expected = Tensor::cat(&parts.collect::<Vec<_>>(), 0);
        let expected_gradients = gradients(&expected, &vars);

        let (first, odd, last, vars) = build();
        let net = Net { first, odd: func(move |x| odd(x)), last };
        let mut pipe = net.pipe(&vars).checkpoint(mode).intra_op_threads(1).build().unwrap();
        let found = pipe.forward(&x).unwrap();
        assert_eq!(found, expected, "{name}, {mode}, {rows} rows: outputs");
        assert_eq!(gradients(&found, &vars), expected_gradients, "{name}, {mode}, {rows} rows: gradients");
    }
}

#[test]
fn recurrent_layers() {
    as_plain("lstm", |path| {
        let lstm = nn::lstm(path, 8, 8, Default::default());
        Box::new(move |x| lstm.seq(x).0)
    });
    as_plain("gru", |path| {
        let gru = nn::gru(path, 8, 8, Default::default());
        Box::new(move |x| gru.seq(x).0)
    });
}

#[test]
fn weights_that_are_made_of_parameters() {
    as_plain("low-rank adapter on the last token", |path| {
        let (w, a, b) =
            (path.randn("w", &[8, 8], 0., 1.), path.randn("a", &[8, 2], 0., 1.), path.randn("b", &[2, 8], 0., 1.));
        Box::new(move |x| x + x.slice(1, 4, 5, 1).matmul(&(&w + a.matmul(&b))))
    });
    as_plain("normalised weight on the last token", |path| {
        let w = path.randn("w", &[8, 8], 0., 1.);
        Box::new(move |x| x + x.slice(1, 4, 5, 1).matmul(&(&w / w.norm())))
    });
    as_plain("parts of a weight that were taken when the layer was made", |path| {
        let w = path.randn("w", &[16, 8], 0., 1.);
        let (a, b) = (w.narrow(0, 0, 8), w.narrow(0, 8, 8));
        Box::new(move |x| x.matmul(&a).tanh().matmul(&b))
    });
    as_plain("attention with a bias made of parameters", |path| {
        let bias = path.randn("bias", &[5, 5], 0., 1.);
        Box::new(move |x| {
            let heads = x.unsqueeze(1);
            Tensor::scaled_dot_product_attention(&heads, &heads, &heads, Some(bias.tanh()), 0., false, None, false)
                .squeeze_dim(1)
        })
    });
    as_plain("attention with a constant mask", |path| {
        let mask = path.randn("mask", &[5, 5], 0., 1.).set_requires_grad(false);
        Box::new(move |x| {
            let heads = x.unsqueeze(1);
            Tensor::scaled_dot_product_attention(&heads, &heads, &heads, Some(&mask), 0., false, None, false)
                .squeeze_dim(1)
        })
    });
}

#[test]
fn autograd_inside_a_forward() {
    as_plain("forces", |path| {
        let w = path.randn("w", &[8, 8], 0., 1.);
        Box::new(move |x| {
            let energy = x.matmul(&w).tanh().square().sum(Kind::Float);
            let force = Tensor::run_backward(&[energy], &[x], true, true).remove(0);
            x - force * 0.1
        })
    });
    as_plain("forces at positions of its own", |path| {
        let w = path.randn("w", &[8, 8], 0., 1.);
        Box::new(move |x| {
            let positions = x.detach().set_requires_grad(true);
            let energy = positions.matmul(&w).tanh().square().sum(Kind::Float);
            let force = Tensor::run_backward(&[energy], &[&positions], true, true).remove(0);
            x - force * 0.1
        })
    });
    as_plain("an inner optimisation by backward()", |path| {
        let w = path.randn("w", &[8, 8], 0., 1.);
        Box::new(move |x| {
            let mut code = x.detach().set_requires_grad(true);
            for _ in 0..2 {
                let target = w.detach();
                (code.matmul(&target) - 1.).square().sum(Kind::Float).backward();
                code = (&code - code.grad() * 1e-3).detach().set_requires_grad(true);
            }
            x + code.detach().matmul(&w)
        })
    });
    as_plain("a penalty on the slope for a parameter", |path| {
        let w = path.randn("w", &[8, 8], 0., 1.);
        Box::new(move |x| {
            let y = x.matmul(&w);
            let slope = Tensor::run_backward(&[y.tanh().sum(Kind::Float)], &[&w], true, true).remove(0);
            y + slope.square().mean(Kind::Float)
        })
    });
}

#[test]
fn a_layer_that_looks_at_what_wants_a_gradient_sees_one_answer() {
    let _serial = pipe_tests::serial();
    for mode in MODES {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let vars = Net::vars(&Devices::cpu(2)).unwrap();
        let (first, last) = (linear(vars.first(), 8, 8), linear(vars.last(), 8, 8));
        let answers = Arc::clone(&seen);
        let odd = func(move |x| {
            answers.lock().unwrap().push((x.requires_grad(), (x * 2.).requires_grad(), x.detach().requires_grad()));
            x.shallow_clone()
        });
        let mut pipe = Net { first, odd, last }.pipe(&vars).checkpoint(mode).build().unwrap();
        pipe.forward(rows(6)).unwrap().sum(Kind::Float).backward();
        assert!(seen.lock().unwrap().iter().all(|answer| *answer == (true, true, false)), "{mode}");
    }
}

type Weighted = (Tensor, Tensor, Replicate<Tensor>);

struct Before(Linear);

impl Layer<Weighted> for Before {
    type Out = Weighted;

    fn run(&self, (x, labels, weights): Weighted, _cx: &Context) -> Weighted {
        (x.apply(&self.0), labels, weights)
    }
}

struct After;

impl Layer<Weighted> for After {
    type Out = Tensor;

    fn run(&self, (x, labels, Replicate(weights)): Weighted, _cx: &Context) -> Tensor {
        assert!(!weights.requires_grad(), "a constant stays one");
        x.cross_entropy_loss(&labels, Some(&weights), Reduction::None, -100, 0.)
    }
}

#[pipeline(input = Weighted, chunks = 3)]
struct ClassWeights {
    #[device("cpu")]
    before: Before,
    #[device("cpu")]
    after: After,
}

#[test]
fn constants_that_cross_a_boundary_want_no_gradient() {
    let _serial = pipe_tests::serial();
    for mode in MODES {
        let (x, weights) = (rows(6), Tensor::from_slice(&[0.5_f32, 1., 2.]));
        let labels = Tensor::from_slice(&[0_i64, 1, 2, 0, 1, 2]);
        let vars = ClassWeights::vars(&Devices::cpu(2)).unwrap();
        let before = linear(vars.before(), 8, 3);
        let ws = before.ws.shallow_clone();
        let losses = x.apply(&before).cross_entropy_loss(&labels, Some(&weights), Reduction::None, -100, 0.);
        let expected = Tensor::run_backward(&[losses.sum(Kind::Float)], &[&ws], false, false).remove(0);
        let net = ClassWeights { before: Before(before), after: After };
        let mut pipe = net.pipe(&vars).checkpoint(mode).build().unwrap();
        pipe.forward((x, labels, Replicate(weights))).unwrap().sum(Kind::Float).f_backward().unwrap();
        assert!(ws.grad().allclose(&expected, 1e-5, 1e-6, false), "{mode}");
    }
}

#[test]
fn a_frozen_stage_is_not_run_again() {
    let _serial = pipe_tests::serial();
    let vars = Net::vars(&Devices::cpu(2)).unwrap();
    let first = linear(vars.first(), 8, 8);
    [Some(&first.ws), first.bs.as_ref()].into_iter().flatten().for_each(|w| drop(w.set_requires_grad(false)));
    let runs = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&runs);
    let odd = func(move |x| {
        counter.fetch_add(1, Ordering::Relaxed);
        x.relu()
    });
    let net = Net { first, odd, last: linear(vars.last(), 8, 8) };
    let mut pipe = net.pipe(&vars).checkpoint(Checkpoint::Always).build().unwrap();
    pipe.forward(rows(6)).unwrap().sum(Kind::Float).backward();
    assert_eq!(runs.load(Ordering::Relaxed), 3);
    assert!(vars.var_store().variables()["last.weight"].grad().defined());
}

/// A value kept from the micro-batch before, in a plain cell or in a [`Carried`] one, which works
/// with recomputation.
enum Memory {
    Plain(RefCell<Option<Tensor>>),
    Carried(Carried<Tensor>),
}

struct Remembers(Memory);

impl Layer<Tensor> for Remembers {
    type Out = Tensor;

    fn run(&self, x: Tensor, cx: &Context) -> Tensor {
        let now = x.detach().sum_dim_intlist(0, true, None);
        let before = match &self.0 {
            Memory::Plain(cell) => cell.replace(Some(now)),
            Memory::Carried(cell) => {
                let before = cell.get(cx);
                cell.set(cx, now);
                assert!(cell.get(cx).is_some());
                before
            }
        };
        before.map_or_else(|| x.shallow_clone(), |before| &x * before.tanh())
    }
}

#[pipeline(chunks = 3)]
struct Remembering {
    #[device("cpu")]
    first: Linear,
    remembers: Remembers,
    #[device("cpu")]
    last: Func<'static>,
}

fn remembering(memory: Memory, last: Func<'static>) -> (Remembering, RememberingVars) {
    tch::manual_seed(5);
    let vars = Remembering::vars(&Devices::cpu(2)).unwrap();
    (Remembering { first: linear(vars.first(), 8, 8), remembers: Remembers(memory), last }, vars)
}

#[test]
fn state_in_a_cell_of_a_layers_own_is_an_error_where_it_would_give_another_gradient() {
    let _serial = pipe_tests::serial();
    for mode in MODES {
        let (net, vars) = remembering(Memory::Plain(RefCell::default()), func(Tensor::relu));
        let mut pipe = net.pipe(&vars).checkpoint(mode).build().unwrap();
        let outcome = pipe.forward(rows(6)).unwrap().sum(Kind::Float).f_backward();
        if mode == Checkpoint::Never {
            outcome.unwrap();
            continue;
        }
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains("the recomputation gave other values than the first pass"), "{error}");
        assert!(vars.var_store().trainable_variables().iter().all(|variable| !variable.grad().defined()));
    }
}

#[test]
fn what_is_carried_is_what_the_first_pass_saw_and_is_put_back_after_a_failure() {
    let _serial = pipe_tests::serial();
    let x = [rows(6), rows(6)];
    // Plain tch runs micro-batch by micro-batch, over both mini-batches.
    let (net, vars) = remembering(Memory::Plain(RefCell::default()), func(Tensor::relu));
    let parts = x.iter().flat_map(|x| x.chunk(3, 0));
    let mut before: Option<Tensor> = None;
    let mut losses = Vec::new();
    for part in parts {
        let part = part.apply(&net.first);
        let now = part.detach().sum_dim_intlist(0, true, None);
        let y = before.replace(now).map_or_else(|| part.shallow_clone(), |before| &part * before.tanh());
        losses.push(y.relu().sum(Kind::Float));
    }
    let expected = Tensor::run_backward(
        &[losses.into_iter().sum::<Tensor>()],
        &vars.var_store().trainable_variables(),
        false,
        false,
    );

    for mode in MODES {
        let fails = Arc::new(AtomicUsize::new(0));
        let trigger = Arc::clone(&fails);
        let last = func(move |x| {
            if trigger.load(Ordering::Relaxed) > 0 && trigger.fetch_sub(1, Ordering::Relaxed) == 1 {
                std::panic::resume_unwind(Box::new("on purpose"));
            }
            x.relu()
        });
        let (net, vars) = remembering(Memory::Carried(Carried::new()), last);
        let mut pipe = net.pipe(&vars).checkpoint(mode).intra_op_threads(1).build().unwrap();
        for x in &x {
            fails.store(2, Ordering::Relaxed);
            assert!(pipe.forward(x).is_err());
            pipe.forward(x).unwrap().sum(Kind::Float).backward();
        }
        for (variable, expected) in vars.var_store().trainable_variables().iter().zip(&expected) {
            assert!(variable.grad().allclose(expected, 1e-5, 1e-6, false), "{mode}");
        }
    }
}

#[test]
fn a_graph_that_is_kept_recomputes_from_what_was_carried_each_time() {
    let _serial = pipe_tests::serial();
    let x = rows(4);
    for chunks in [1, 2] {
        let (net, vars) = remembering(Memory::Carried(Carried::new()), func(Tensor::relu));
        let mut pipe = net.pipe(&vars).chunks(chunks).checkpoint(Checkpoint::Always).build().unwrap();
        pipe.forward(rows(4)).unwrap().sum(Kind::Float).backward();
        let loss = pipe.forward(&x).unwrap().sum(Kind::Float);
        let variables = vars.var_store().trainable_variables();
        let gradients = |keep| Tensor::run_backward(&[&loss], &variables, keep, false);
        assert_eq!(gradients(true), gradients(false));
    }
}

#[test]
fn a_leaf_that_a_layer_makes_trains_and_one_that_it_holds_is_an_error() {
    let _serial = pipe_tests::serial();
    for (mode, held) in MODES.into_iter().flat_map(|mode| [false, true].map(|held| (mode, held))) {
        let vars = Net::vars(&Devices::cpu(2)).unwrap();
        let forgotten = leaf(1);
        let odd = func(move |x| {
            let own = if held { forgotten.shallow_clone() } else { x.detach().set_requires_grad(true) };
            x * own.tanh()
        });
        let net = Net { first: linear(vars.first(), 8, 8), odd, last: linear(vars.last(), 8, 8) };
        let mut pipe = net.pipe(&vars).checkpoint(mode).build().unwrap();
        let outcome = pipe.train_step(rows(6), (), |y, (): &()| y.square().mean(Kind::Float)).map(drop);
        assert_eq!(outcome.is_err(), held, "{mode}: {outcome:?}");
        let trained =
            vars.var_store().trainable_variables().iter().filter(|variable| variable.grad().defined()).count();
        assert_eq!(trained, if held { 0 } else { 4 });
        if let Err(error) = outcome {
            assert!(error.to_string().contains("trainable tensor of shape [1, 8]"), "{error}");
        }
    }
}
