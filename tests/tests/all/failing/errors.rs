//! A failure anywhere is returned as an error with its place and cause. Nothing hangs, nothing is
//! changed, and the pipeline can still be used.

use std::sync::{Arc, Mutex};

use pipe_runtime::{Checkpoint, Context, Devices, Error, Failure, Layer, Phase, Pipe, pipeline};
use pipe_tests::compare::{leaf, rows};
use pipe_tests::layers::{Merge, func, linear};
use proptest::prelude::*;
use tch::nn::{self, BatchNorm, Func, Linear};
use tch::{Kind, Tensor};

/// Kind of failure of a [`Fuse`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// A panic of the layer itself.
    Panic,
    /// An error of libtorch, which tch turns into a panic.
    Torch,
    /// A mistake that only the backward notices: a saved tensor is changed in place.
    Backward,
}

#[derive(Clone, Copy, Debug)]
struct Trigger {
    stage: usize,
    micro_batch: usize,
    recomputing: bool,
    fault: Fault,
}

type Triggers = Arc<Mutex<Vec<Trigger>>>;

/// A layer that fails at the places that its triggers set.
struct Fuse(Triggers);

impl Layer<Tensor> for Fuse {
    type Out = Tensor;

    fn run(&self, x: Tensor, cx: &Context) -> Tensor {
        let here = |trigger: &&Trigger| trigger.stage == cx.stage() && trigger.micro_batch == cx.micro_batch();
        let trigger = self.0.lock().unwrap().iter().find(here).copied();
        let now = trigger.is_some_and(|trigger| trigger.recomputing == cx.is_recomputing());
        match trigger.map(|trigger| trigger.fault) {
            // The change is a multiplication by 1, so the values stay the same and only the
            // tensor's version counts up.
            Some(Fault::Backward) => {
                let saved = x.exp();
                if now {
                    let _ = tch::no_grad(|| saved.shallow_clone().g_mul_scalar_(1.));
                }
                saved
            }
            _ if !now => x,
            // Like `panic!`, but without a message in the test's output.
            Some(Fault::Panic) => std::panic::resume_unwind(Box::new("the fuse blew".to_owned())),
            Some(Fault::Torch) => match x.f_matmul(&Tensor::zeros([5, 5], (Kind::Float, x.device()))) {
                Ok(_) => unreachable!("the shapes do not fit"),
                Err(error) => std::panic::resume_unwind(Box::new(format!(
                    "called `Result::unwrap()` on an `Err` value: {error:?}"
                ))),
            },
            None => x,
        }
    }
}

#[pipeline(chunks = 4)]
struct Fused {
    #[device("cpu")]
    #[stash(early = output)]
    first: Linear,
    fuse0: Fuse,
    #[device("cpu")]
    norm: Norm,
    fuse1: Fuse,
    #[device("cpu")]
    #[pop(early)]
    merge: Merge,
    fuse2: Fuse,
    last: Linear,
}

#[derive(Debug)]
struct Norm(BatchNorm);

impl nn::ModuleT for Norm {
    fn forward_t(&self, x: &Tensor, train: bool) -> Tensor {
        x.unsqueeze(-1).repeat([1, 1, 2]).apply_t(&self.0, train).mean_dim(-1, false, Kind::Float)
    }
}

fn fused(checkpoint: Checkpoint) -> (Pipe<Fused>, FusedVars, Triggers) {
    tch::manual_seed(3);
    let triggers = Triggers::default();
    let vars = Fused::vars(&Devices::cpu(Fused::STAGES)).unwrap();
    let model = Fused {
        first: linear(vars.first(), 8, 8),
        fuse0: Fuse(triggers.clone()),
        norm: Norm(nn::batch_norm1d(vars.norm(), 8, Default::default())),
        fuse1: Fuse(triggers.clone()),
        merge: Merge,
        fuse2: Fuse(triggers.clone()),
        last: linear(vars.last(), 8, 3),
    };
    (model.pipe(&vars).checkpoint(checkpoint).intra_op_threads(1).build().unwrap(), vars, triggers)
}

/// Values of all variables, with their gradients.
fn state(vars: &FusedVars) -> Vec<(String, Tensor, Option<Tensor>)> {
    let gradient = |tensor: &Tensor| tensor.grad().defined().then(|| tensor.grad().copy());
    let mut state: Vec<_> = vars
        .var_store()
        .variables()
        .into_iter()
        .map(|(name, tensor)| (name, tensor.detach().copy(), gradient(&tensor)))
        .collect();
    state.sort_by(|(a, ..), (b, ..)| a.cmp(b));
    state
}

fn failure(error: Error) -> Failure {
    match error {
        Error::Failed(failure) => failure,
        other => panic!("not a layer's failure: {other}"),
    }
}

fn modes() -> impl Strategy<Value = Checkpoint> {
    prop_oneof![Just(Checkpoint::Always), Just(Checkpoint::ExceptLast), Just(Checkpoint::Never)]
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_forward_that_fails_changes_nothing(
        mode in modes(),
        places in prop::collection::vec((0..3_usize, 0..4_usize), 1..4),
        panics in any::<bool>(),
    ) {
        let _serial = pipe_tests::serial();
        let (mut pipe, vars, triggers) = fused(mode);
        // A step that succeeds comes first, so that there are gradients and statistics to preserve.
        pipe.forward(rows(8)).unwrap().sum(Kind::Float).backward();
        let before = state(&vars);

        let fault = if panics { Fault::Panic } else { Fault::Torch };
        *triggers.lock().unwrap() = places
            .iter()
            .map(|&(stage, micro_batch)| Trigger { stage, micro_batch, recomputing: false, fault })
            .collect();
        let failed = failure(pipe.forward(rows(8)).unwrap_err());
        prop_assert_eq!(&state(&vars), &before);

        // The error is the first one in the schedule's order: by tick, then by stage.
        let &(stage, micro_batch) = places.iter().min_by_key(|(stage, micro_batch)| (stage + micro_batch, *stage)).unwrap();
        prop_assert_eq!((failed.phase, failed.stage, failed.micro_batch), (Phase::Forward, stage, micro_batch));
        prop_assert_eq!(failed.layer, format!("fuse{stage}"));
        let cause = if panics { "the fuse blew" } else { "mat1 and mat2 shapes cannot be multiplied (2x8 and 5x5)" };
        // libtorch 2.15 prefixes the name of the operator.
        prop_assert_eq!(failed.cause.trim_start_matches("mm: "), cause);

        triggers.lock().unwrap().clear();
        next_step_is_right(&mut pipe, &vars, mode);
    }

    #[test]
    fn a_backward_that_fails_changes_nothing(
        mode in modes(),
        stage in 0..3_usize,
        micro_batch in 0..4_usize,
        fault in prop_oneof![Just(Fault::Panic), Just(Fault::Torch), Just(Fault::Backward)],
    ) {
        let _serial = pipe_tests::serial();
        let (mut pipe, vars, triggers) = fused(mode);
        pipe.forward(rows(8)).unwrap().sum(Kind::Float).backward();
        let recomputing = mode.applies(micro_batch, 4);
        prop_assume!(recomputing || fault == Fault::Backward);

        triggers.lock().unwrap().push(Trigger { stage, micro_batch, recomputing, fault });
        let x = leaf(8);
        let loss = pipe.forward(&x).unwrap().sum(Kind::Float);
        let before = state(&vars);
        let error = loss.f_backward().unwrap_err().to_string();
        prop_assert_eq!(&state(&vars), &before);
        prop_assert!(!x.grad().defined());

        let (phase, layer, cause) = match fault {
            Fault::Panic => ("recomputation", format!(", layer `fuse{stage}`"), "the fuse blew"),
            Fault::Torch => ("recomputation", format!(", layer `fuse{stage}`"), "mat1 and mat2 shapes cannot be multiplied"),
            Fault::Backward => ("backward", String::new(), "modified by an inplace operation"),
        };
        let place = format!("{phase} of micro-batch {micro_batch} in stage {stage}{layer}: ");
        prop_assert!(error.contains(&place), "{}", error);
        prop_assert!(error.contains(cause), "{}", error);

        triggers.lock().unwrap().clear();
        next_step_is_right(&mut pipe, &vars, mode);
    }
}

/// Asserts that a step gives the same gradients on this pipeline and on a new one with the same
/// variables.
fn next_step_is_right(pipe: &mut Pipe<Fused>, vars: &FusedVars, mode: Checkpoint) {
    let (mut fresh, fresh_vars, _) = fused(mode);
    let x = rows(8);
    let values = vars.var_store().variables();
    tch::no_grad(|| {
        for (name, tensor) in fresh_vars.var_store().variables() {
            tensor.shallow_clone().copy_(&values[&name]);
        }
    });
    let loss = fresh.forward(&x).unwrap().square().sum(Kind::Float);
    let parameters = fresh_vars.var_store().trainable_variables();
    let expected = Tensor::run_backward(&[loss], &parameters, false, false);
    let loss = pipe.forward(&x).unwrap().square().sum(Kind::Float);
    let found = Tensor::run_backward(&[loss], &vars.var_store().trainable_variables(), false, false);
    assert_eq!(found, expected);
}

#[pipeline(chunks = 2)]
struct WorksInPlace {
    #[device("cpu")]
    first: Linear,
    #[device("cpu")]
    relu: Func<'static>,
    last: Linear,
}

#[test]
fn a_checkpointed_stage_that_changes_its_input_says_so() {
    let _serial = pipe_tests::serial();
    let vars = WorksInPlace::vars(&Devices::cpu(2)).unwrap();
    let model = WorksInPlace {
        first: linear(vars.first(), 8, 8),
        relu: func(|x| x.shallow_clone().relu_()),
        last: linear(vars.last(), 8, 8),
    };
    let mut pipe = model.pipe(&vars).checkpoint(Checkpoint::Always).build().unwrap();
    let error = pipe.forward(rows(4)).unwrap().sum(Kind::Float).f_backward().unwrap_err().to_string();
    assert!(error.contains("recomputation of micro-batch 1 in stage 1"), "{error}");
    assert!(error.contains("modified by an in-place operation"), "{error}");
}

#[pipeline(chunks = 2)]
struct SpoilsASkip {
    #[device("cpu")]
    #[stash(kept = output)]
    first: Linear,
    #[device("cpu")]
    relu: Func<'static>,
    #[device("cpu")]
    #[pop(kept)]
    merge: Merge,
}

#[test]
fn a_skip_that_another_stage_changes_in_place_is_an_error() {
    let _serial = pipe_tests::serial();
    let vars = SpoilsASkip::vars(&Devices::cpu(3)).unwrap();
    let model =
        SpoilsASkip { first: linear(vars.first(), 8, 8), relu: func(|x| x.shallow_clone().relu_()), merge: Merge };
    let mut pipe = model.pipe(&vars).build().unwrap();
    let failed = failure(pipe.forward(rows(4)).unwrap_err());
    assert_eq!((failed.stage, failed.micro_batch), (1, 0), "where it is changed");
    assert!(failed.cause.contains("an in-place operation of a layer modified a value"), "{failed}");
}

/// A layer with a trainable tensor that the pipeline does not know.
#[derive(Debug)]
struct Smuggler(Tensor);

impl nn::Module for Smuggler {
    fn forward(&self, x: &Tensor) -> Tensor {
        x * &self.0
    }
}

#[pipeline]
struct Smuggling {
    #[device("cpu")]
    first: Linear,
    #[device("cpu")]
    second: Smuggler,
}

#[test]
fn a_trainable_tensor_outside_the_vars_is_an_error_and_not_forgotten() {
    let _serial = pipe_tests::serial();
    let vars = Smuggling::vars(&Devices::cpu(2)).unwrap();
    let model = Smuggling { first: linear(vars.first(), 8, 8), second: Smuggler(leaf(1)) };
    let mut pipe = model.pipe(&vars).build().unwrap();
    let error = pipe.forward(rows(4)).unwrap().sum(Kind::Float).f_backward().unwrap_err().to_string();
    assert!(
        error.contains("stage 1 uses a trainable tensor of shape [1, 8] that is not in the pipeline's vars"),
        "{error}"
    );
}

#[test]
fn wrong_settings_and_inputs_are_errors_before_anything_runs() {
    let _serial = pipe_tests::serial();
    let (mut pipe, vars, _) = fused(Checkpoint::Never);
    let error = pipe.forward(Tensor::from(1.0)).unwrap_err().to_string();
    assert!(error.contains("zero-dimensional tensor cannot be split"), "{error}");
    let error = pipe.into_inner().pipe(&vars).chunks(0).build().unwrap_err().to_string();
    assert_eq!(error, "number of chunks must be positive integer");
    let error = Fused::vars(&Devices::cpu(4)).unwrap_err().to_string();
    assert!(error.contains("the model has 3 stages, but 4 devices were given (cpu,cpu,cpu,cpu)"), "{error}");
}

/// A slow layer that counts its forwards.
struct Counted(Arc<Mutex<usize>>);

impl Layer<Tensor> for Counted {
    type Out = Tensor;

    fn run(&self, x: Tensor, _cx: &Context) -> Tensor {
        *self.0.lock().unwrap() += 1;
        std::thread::sleep(std::time::Duration::from_millis(5));
        x
    }
}

#[pipeline(chunks = 200)]
struct FailsEarly {
    #[device("cpu")]
    counted: Counted,
    #[device("cpu")]
    fuse: Fuse,
}

#[test]
fn a_failure_stops_the_stages_before_it_soon() {
    let _serial = pipe_tests::serial();
    let trigger = Trigger { stage: 1, micro_batch: 0, recomputing: false, fault: Fault::Panic };
    let (triggers, count) = (Arc::new(Mutex::new(vec![trigger])), Arc::default());
    let vars = FailsEarly::vars(&Devices::cpu(2)).unwrap();
    let model = FailsEarly { counted: Counted(Arc::clone(&count)), fuse: Fuse(triggers) };
    let mut pipe = model.pipe(&vars).build().unwrap();
    assert_eq!(failure(pipe.forward(rows(200)).unwrap_err()).micro_batch, 0);
    let ran = *count.lock().unwrap();
    assert!(ran < 100, "{ran} of 200 micro-batches ran after the first had failed");
}
