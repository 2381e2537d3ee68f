//! A training step gives the same results as forward, loss and `backward()`.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use pipe_runtime::{Checkpoint, Context, Devices, Layer, Pipe, Reduction, pipeline};
use pipe_tests::compare::{gradients, leaf, rows};
use pipe_tests::layers::{Merge, dropout, linear};
use tch::nn::{FuncT, Linear};
use tch::{Kind, Tensor};

#[pipeline(chunks = 3)]
struct Net {
    #[device("cpu")]
    #[stash(early = output)]
    first: Linear,
    drop: FuncT<'static>,
    #[device("cpu")]
    second: Linear,
    #[device("cpu")]
    #[pop(early)]
    merge: Merge,
    third: Linear,
}

const MODES: [Checkpoint; 3] = [Checkpoint::Always, Checkpoint::ExceptLast, Checkpoint::Never];

fn net(mode: Checkpoint) -> (Pipe<Net>, NetVars) {
    tch::manual_seed(1);
    let vars = Net::vars(&Devices::cpu(3)).unwrap();
    let net = Net {
        first: linear(vars.first(), 8, 8),
        drop: dropout(0.2),
        second: linear(vars.second(), 8, 8),
        merge: Merge,
        third: linear(vars.third(), 8, 8),
    };
    (net.pipe(&vars).checkpoint(mode).intra_op_threads(1).build().unwrap(), vars)
}

/// Labels of seven rows, in micro-batches of 3, 3 and 1. Two labels of the first micro-batch are
/// ignored (-100).
fn labels() -> Tensor {
    Tensor::from_slice(&[-100_i64, 3, -100, 0, 1, 7, 2])
}

fn cross_entropy(output: &Tensor, labels: &Tensor) -> Tensor {
    output.cross_entropy_loss::<Tensor>(labels, None, tch::Reduction::Mean, -100, 0.)
}

#[test]
fn it_is_forward_loss_and_backward() {
    let _serial = pipe_tests::serial();
    for mode in MODES {
        let (x, y) = (rows(8), rows(8));
        let (mut pipe, vars) = net(mode);
        tch::manual_seed(2);
        let output = pipe.forward(&x).unwrap();
        let loss = output.mse_loss(&y, tch::Reduction::Mean);
        loss.backward();
        let expected = gradients(&vars);

        let (mut pipe, vars) = net(mode);
        tch::manual_seed(2);
        let report = pipe
            .step()
            .keep_output()
            .run(&x, &y, |output, y: &Tensor| output.mse_loss(y, tch::Reduction::Mean))
            .unwrap();
        assert_eq!(report.output, output.detach());
        assert!(!report.output.requires_grad() && !report.loss.requires_grad());
        assert!(report.loss.allclose(&loss, 1e-6, 1e-6, false));
        assert_eq!(report.losses.len(), 3);
        for (found, expected) in gradients(&vars).iter().zip(&expected) {
            assert!(found.allclose(expected, 1e-5, 1e-7, false), "{mode}");
        }
    }
}

#[test]
fn ragged_micro_batches_and_ignored_rows_count_as_in_the_whole_batch() {
    let _serial = pipe_tests::serial();
    let (mut pipe, vars) = net(Checkpoint::ExceptLast);
    pipe.eval();
    let x = rows(7);
    let whole = cross_entropy(&pipe.forward(&x).unwrap(), &labels());
    let expected = Tensor::run_backward(&[&whole], &vars.var_store().trainable_variables(), false, false);

    let counted = |labels: &Tensor| labels.ne(-100).sum(Kind::Int64).int64_value(&[]) as f64;
    let report = pipe.step().reduction(Reduction::Weighted(&counted)).run(&x, labels(), cross_entropy).unwrap();
    assert!(report.loss.allclose(&whole, 1e-6, 1e-6, false));
    for (found, expected) in gradients(&vars).iter().zip(&expected) {
        assert!(found.allclose(expected, 1e-5, 1e-7, false));
    }

    // A micro-batch whose rows are all ignored has no loss, and no effect.
    let labels = Tensor::from_slice(&[-100_i64, -100, -100, 0, 1, 7, 2]);
    let whole = cross_entropy(&pipe.forward(&x).unwrap(), &labels);
    let report = pipe.step().reduction(Reduction::Weighted(&counted)).run(&x, &labels, cross_entropy).unwrap();
    assert!(report.loss.allclose(&whole, 1e-6, 1e-6, false));
    assert!(gradients(&vars).iter().all(|gradient| f64::try_from(gradient.sum(Kind::Double)).unwrap().is_finite()));
}

#[test]
fn a_sum_over_rows_is_a_sum_over_micro_batches() {
    let _serial = pipe_tests::serial();
    let (mut pipe, _vars) = net(Checkpoint::Never);
    pipe.eval();
    let x = rows(7);
    let whole = pipe.forward(&x).unwrap().square().sum(Kind::Float);
    let report = pipe.step().reduction(Reduction::Sum).run(&x, (), |y, (): &()| y.square().sum(Kind::Float)).unwrap();
    assert!(report.loss.allclose(&whole, 1e-5, 1e-6, false));
}

#[test]
fn gradients_accumulate_over_steps() {
    let _serial = pipe_tests::serial();
    let (mut pipe, vars) = net(Checkpoint::Always);
    pipe.eval();
    let (x, y) = (rows(6), rows(6));
    let mut step = || pipe.train_step(&x, &y, |output, y: &Tensor| output.mse_loss(y, tch::Reduction::Mean)).unwrap();
    step();
    let once: Vec<_> = gradients(&vars).iter().map(Tensor::copy).collect();
    step();
    for (twice, once) in gradients(&vars).iter().zip(&once) {
        assert_eq!(*twice, once * 2.);
    }
}

#[test]
fn the_loss_runs_on_the_calling_thread_and_may_borrow() {
    let _serial = pipe_tests::serial();
    let (mut pipe, _vars) = net(Checkpoint::Never);
    let here = std::thread::current().id();
    let seen = RefCell::new(Vec::new());
    let loss = |output: &Tensor, (): &()| {
        assert_eq!(std::thread::current().id(), here);
        seen.borrow_mut().push(output.size()[0]);
        output.sum(Kind::Float)
    };
    pipe.train_step(rows(7), (), loss).unwrap();
    assert_eq!(*seen.borrow(), [3, 3, 1]);
}

#[test]
fn a_loss_that_fails_changes_nothing_and_says_where() {
    let _serial = pipe_tests::serial();
    let (mut pipe, vars) = net(Checkpoint::Always);
    let failing = |output: &Tensor, targets: &Tensor| {
        if output.size()[0] == 1 {
            std::panic::resume_unwind(Box::new("no loss"));
        }
        output.mse_loss(targets, tch::Reduction::Mean)
    };
    let error = pipe.train_step(rows(7), rows(7), failing).unwrap_err().to_string();
    assert_eq!(error, "forward of micro-batch 2 in stage 2, layer `loss`: no loss");
    assert!(!gradients(&vars).iter().any(Tensor::defined));
    let error = pipe.train_step(rows(7), (), |output, (): &()| output.shallow_clone()).unwrap_err().to_string();
    assert!(
        error.contains("the loss is one number per micro-batch, and this one is a tensor of shape [3, 8]"),
        "{error}"
    );
    pipe.train_step(rows(7), (), |output, (): &()| output.sum(Kind::Float)).unwrap();
    assert!(gradients(&vars).iter().all(Tensor::defined));
}

#[test]
fn what_a_step_cannot_do_is_refused() {
    let _serial = pipe_tests::serial();
    let (mut pipe, _vars) = net(Checkpoint::Always);
    let loss = |output: &Tensor, (): &()| output.sum(Kind::Float);
    let error = pipe.train_step(leaf(4), (), loss).unwrap_err().to_string();
    assert!(error.contains("an input of a training step wants a gradient"), "{error}");
    let error = tch::no_grad(|| pipe.train_step(rows(4), (), loss)).unwrap_err().to_string();
    assert!(error.contains("call it outside of `no_grad`"), "{error}");
    let error = pipe.train_step(rows(6), rows(2), |a, b: &Tensor| (a - b).sum(Kind::Float)).unwrap_err().to_string();
    assert!(error.contains("the inputs have 6 rows, and tensor 0, of shape [2, 8]"), "{error}");
    let nothing = |_: &()| 0.;
    let error = pipe.step().reduction(Reduction::Weighted(&nothing)).run(rows(4), (), loss).unwrap_err().to_string();
    assert!(error.contains("not all zero"), "{error}");
}

#[test]
fn a_step_may_have_several_outputs() {
    #[pipeline(output = (Tensor, Tensor), chunks = 2)]
    struct TwoHeads {
        #[device("cpu")]
        body: Linear,
        #[device("cpu")]
        heads: Heads,
    }

    struct Heads(Linear, Linear);

    impl Layer<Tensor> for Heads {
        type Out = (Tensor, Tensor);

        fn run(&self, x: Tensor, _cx: &Context) -> (Tensor, Tensor) {
            (x.apply(&self.0), x.apply(&self.1))
        }
    }

    let _serial = pipe_tests::serial();
    let vars = TwoHeads::vars(&Devices::cpu(2)).unwrap();
    let path = vars.heads();
    let heads = Heads(linear(path.sub("a"), 8, 2), linear(path.sub("b"), 8, 3));
    let model = TwoHeads { body: linear(vars.body(), 8, 8), heads };
    let mut pipe = model.pipe(&vars).build().unwrap();
    let report = pipe
        .step()
        .keep_output()
        .run(rows(4), (), |(a, b), (): &()| a.sum(Kind::Float) + b.square().sum(Kind::Float))
        .unwrap();
    assert_eq!((report.output.0.size(), report.output.1.size()), (vec![4, 2], vec![4, 3]));
    assert!(vars.var_store().trainable_variables().iter().all(|parameter| parameter.grad().defined()));
}

#[test]
fn without_the_output_the_step_is_the_same() {
    let _serial = pipe_tests::serial();
    for mode in MODES {
        let (x, y) = (rows(7), rows(7));
        let mse = |output: &Tensor, y: &Tensor| output.mse_loss(y, tch::Reduction::Mean);
        let (mut pipe, vars) = net(mode);
        tch::manual_seed(2);
        let with = pipe.step().keep_output().run(&x, &y, mse).unwrap();
        let expected = gradients(&vars);

        let (mut pipe, vars) = net(mode);
        tch::manual_seed(2);
        let without = pipe.train_step(&x, &y, mse).unwrap();
        assert_eq!((without.loss, without.losses), (with.loss, with.losses), "{mode}");
        assert_eq!(gradients(&vars), expected, "{mode}");
    }
}

/// A model whose outputs can be counted, because each holds a handle to the same value.
#[pipeline(output = (Tensor, Arc<()>), chunks = 6, schedule = "1f1b")]
struct Counted {
    #[device("cpu")]
    first: Linear,
    #[device("cpu")]
    last: Counting,
}

struct Counting(Arc<()>);

impl Layer<Tensor> for Counting {
    type Out = (Tensor, Arc<()>);

    fn run(&self, x: Tensor, _cx: &Context) -> (Tensor, Arc<()>) {
        (x, self.0.clone())
    }
}

#[test]
fn outputs_are_freed_one_by_one_where_none_is_wanted() {
    let _serial = pipe_tests::serial();
    let counter = Arc::new(());
    let vars = Counted::vars(&Devices::cpu(Counted::STAGES)).unwrap();
    let first = linear(vars.first(), 8, 8);
    let counted = Counted { first, last: Counting(counter.clone()) };
    let mut pipe = counted.pipe(&vars).checkpoint(Checkpoint::Never).build().unwrap();
    let most = Cell::new(0);
    let loss = |(output, counter): &(Tensor, Arc<()>), (): &()| {
        most.set(most.get().max(Arc::strong_count(counter)));
        output.square().mean(Kind::Float)
    };
    // The test and the layer have a handle each, and the loss's output has two.
    pipe.train_step(rows(6), (), loss).unwrap();
    assert_eq!(most.replace(0), 4);
    pipe.step().keep_output().run(rows(6), (), loss).unwrap();
    assert_eq!(most.get(), 4 + 5);
}
