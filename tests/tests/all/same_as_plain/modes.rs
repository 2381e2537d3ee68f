//! The caller's modes, such as autocast and grad mode, apply in the workers.

use std::sync::{Arc, Mutex};

use pipe_runtime::{Checkpoint, Context, Devices, Layer, pipeline};
use pipe_tests::compare::{leaf, rows};
use pipe_tests::layers::{dropout, linear};
use tch::nn::{FuncT, Linear};
use tch::{Device, Kind, Tensor};

/// Record of a layer's run: kind of its output, whether the output requires a gradient, training
/// mode, and whether the run is a recomputation.
type Seen = (Kind, bool, bool, bool);

struct Witness(Linear, Arc<Mutex<Vec<Seen>>>);

impl Layer<Tensor> for Witness {
    type Out = Tensor;

    fn run(&self, x: Tensor, cx: &Context) -> Tensor {
        let y = x.apply(&self.0);
        let seen = (y.kind(), y.requires_grad(), cx.is_training(), cx.is_recomputing());
        self.1.lock().unwrap().push(seen);
        y
    }
}

#[pipeline(chunks = 4)]
struct Net {
    #[device("cpu")]
    first: Witness,
    #[device("cpu")]
    second: Witness,
    drop: FuncT<'static>,
}

struct Built {
    pipe: pipe_runtime::Pipe<Net>,
    vars: NetVars,
    seen: Arc<Mutex<Vec<Seen>>>,
}

fn build(checkpoint: Checkpoint) -> Built {
    tch::manual_seed(4);
    let seen = Arc::<Mutex<Vec<Seen>>>::default();
    let vars = Net::vars(&Devices::cpu(2)).unwrap();
    let model = Net {
        first: Witness(linear(vars.first(), 8, 8), seen.clone()),
        second: Witness(linear(vars.second(), 8, 8), seen.clone()),
        drop: dropout(0.5),
    };
    let pipe = model.pipe(&vars).checkpoint(checkpoint).intra_op_threads(1).build().unwrap();
    Built { pipe, vars, seen }
}

/// Runs `body` under CPU autocast to `bfloat16`, on this thread.
fn autocast<T>(body: impl FnOnce() -> T) -> T {
    pipe_runtime::autocast(Device::Cpu, Kind::BFloat16, body).unwrap()
}

#[test]
fn autocast_holds_in_every_stage_and_in_the_recomputation() {
    let _serial = pipe_tests::serial();
    let Built { mut pipe, vars, seen } = build(Checkpoint::Always);
    let x = leaf(8);
    let y = autocast(|| pipe.forward(&x)).unwrap();
    assert_eq!(y.kind(), Kind::BFloat16);
    // The backward runs outside autocast, but the recomputation has the modes of the first pass.
    y.to_kind(Kind::Float).sum(Kind::Float).backward();
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 2 * 4 * 2);
    assert!(seen.iter().all(|(kind, ..)| *kind == Kind::BFloat16));
    assert!(vars.var_store().trainable_variables().iter().all(|p| p.grad().kind() == Kind::Float));
}

#[test]
fn autocast_gives_what_the_unpipelined_run_gives() {
    let _serial = pipe_tests::serial();
    let Built { mut pipe, .. } = build(Checkpoint::ExceptLast);
    let x = leaf(8);
    tch::manual_seed(6);
    let y = autocast(|| pipe.forward(&x)).unwrap();
    y.to_kind(Kind::Float).sum(Kind::Float).backward();
    let (piped, x_piped) = (y.detach(), x.grad().copy());
    let model = pipe.into_inner();
    let x = x.detach().set_requires_grad(true);
    tch::manual_seed(6);
    let y = autocast(|| model.unpipelined().chunks(4).intra_op_threads(1).forward(&x)).unwrap();
    y.to_kind(Kind::Float).sum(Kind::Float).backward();
    assert_eq!((y.detach(), x.grad()), (piped, x_piped));
}

#[test]
fn grad_mode_holds_in_every_stage() {
    let _serial = pipe_tests::serial();
    let Built { mut pipe, seen, .. } = build(Checkpoint::Never);
    let _ = tch::no_grad(|| pipe.forward(rows(8)).unwrap());
    assert!(seen.lock().unwrap().drain(..).all(|(_, recorded, training, _)| !recorded && training));
    let _ = pipe.forward(rows(8)).unwrap();
    assert!(seen.lock().unwrap().drain(..).all(|(_, recorded, ..)| recorded));
}

#[test]
fn evaluation_is_never_checkpointed_and_draws_no_masks() {
    let _serial = pipe_tests::serial();
    let Built { mut pipe, seen, .. } = build(Checkpoint::Always);
    pipe.eval();
    assert!(!pipe.is_training());
    let x = leaf(8);
    let y = pipe.forward(&x).unwrap();
    assert_eq!(pipe.forward(&x).unwrap(), y);
    seen.lock().unwrap().clear();
    y.sum(Kind::Float).backward();
    assert!(x.grad().defined());
    assert_eq!(seen.lock().unwrap().len(), 0, "nothing is recomputed");
    pipe.train();
    assert_ne!(pipe.forward(&x).unwrap(), y);
}

#[test]
fn the_first_pass_and_the_recomputation_know_what_they_are() {
    let _serial = pipe_tests::serial();
    for (mode, recomputed) in [(Checkpoint::Always, 4), (Checkpoint::ExceptLast, 3), (Checkpoint::Never, 0)] {
        let Built { mut pipe, seen, .. } = build(mode);
        pipe.forward(rows(8)).unwrap().sum(Kind::Float).backward();
        let seen = seen.lock().unwrap();
        assert_eq!(seen.iter().filter(|(.., recomputing)| *recomputing).count(), 2 * recomputed);
        assert_eq!(seen.iter().filter(|(.., recomputing)| !recomputing).count(), 2 * 4);
        // Both passes are recorded, because libtorch may compute differently without recording.
        assert!(seen.iter().all(|(_, recorded, ..)| *recorded));
    }
}

#[test]
fn except_last_counts_the_micro_batches_that_exist() {
    let _serial = pipe_tests::serial();
    // Five rows in four chunks are three micro-batches. PyTorch's `Pipe` checkpoints all three.
    let Built { mut pipe, seen, .. } = build(Checkpoint::ExceptLast);
    pipe.forward(rows(5)).unwrap().sum(Kind::Float).backward();
    let recomputed = seen.lock().unwrap().iter().filter(|(.., recomputing)| *recomputing).count();
    assert_eq!(recomputed, 2 * 2);
}

#[test]
fn the_callers_number_of_threads_comes_back() {
    let _serial = pipe_tests::serial();
    for threads in [1, 2] {
        tch::set_num_threads(threads);
        let Built { mut pipe, .. } = build(Checkpoint::Always);
        assert_eq!(tch::get_num_threads(), threads);
        pipe.forward(rows(8)).unwrap().sum(Kind::Float).backward();
        assert_eq!(tch::get_num_threads(), threads);
        let in_new_thread = std::thread::spawn(tch::get_num_threads).join().unwrap();
        assert_eq!(in_new_thread, threads);
    }
    tch::set_num_threads(1);
}

/// Whether this thread records graphs.
fn records() -> bool {
    (leaf(2) * 2.).requires_grad()
}

#[test]
fn a_prediction_records_nothing_and_leaves_the_modes_as_they_were() {
    let _serial = pipe_tests::serial();
    let mut built = build(Checkpoint::Always);
    let x = rows(8);
    let predicted = built.pipe.predict(&x).unwrap();
    assert_eq!(built.seen.lock().unwrap().drain(..).collect::<Vec<_>>(), [(Kind::Float, false, false, false); 8]);
    assert!(built.pipe.is_training() && records());
    assert!(!predicted.requires_grad());

    built.pipe.eval();
    let evaluated = built.pipe.forward(&x).unwrap();
    assert!(evaluated.requires_grad());
    assert_eq!(predicted, evaluated);
    assert_eq!(built.pipe.predict(&x).unwrap(), evaluated);
    assert!(!built.pipe.is_training());
}

#[test]
fn evaluation_ends_with_its_closure_also_by_an_error_or_a_panic() {
    let _serial = pipe_tests::serial();
    let mut built = build(Checkpoint::Never);
    let pipe = &mut built.pipe;
    let inside = pipe.evaluating(|pipe| (pipe.is_training(), pipe.forward(rows(4)).unwrap().requires_grad()));
    assert_eq!(inside, (false, true));
    assert!(pipe.is_training());
    let failed = pipe.predict(Tensor::zeros([4, 3], (Kind::Float, Device::Cpu)));
    assert!(failed.is_err() && pipe.is_training() && records());
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        pipe.evaluating(|pipe| assert!(pipe.is_training(), "evaluation mode"));
    }));
    assert!(panicked.is_err() && pipe.is_training());
    // What the closure sets holds as long as the closure.
    pipe.evaluating(|pipe| pipe.train());
    pipe.eval();
    pipe.evaluating(|pipe| pipe.train());
    assert!(!pipe.is_training());
}
