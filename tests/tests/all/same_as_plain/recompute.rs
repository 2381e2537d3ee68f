//! Layers that the backward recomputes: with skips in and out, random numbers, statistics, blocks
//! and `Option`s, the step is the unpipelined one, bit by bit. The zoo compares them with plain
//! tch, over all schedules.

use std::sync::Arc;

use pipe_runtime::{Carried, Checkpoint, Context, Devices, Error, Layer, Phase, ScheduleKind, pipeline};
use pipe_tests::compare::{Case, Settings, assert_transparent, leaf};
use pipe_tests::layers::{Merge, dropout, linear};
use pipe_tests::zoo::run::runs;
use pipe_tests::zoo::{
    Batch, Call, Creature, Fault, How, LayerSpec, Recomputed2, Recomputed4, Watchable, Watched, ZooModel,
};
use proptest::prelude::*;
use tch::Tensor;
use tch::nn::{self, BatchNorm, FuncT, Linear};

/// A block: its layers are kept or recomputed together.
#[pipeline]
struct Block {
    #[stash(around = input)]
    wide: Linear,
    drop: FuncT<'static>,
    #[pop(around)]
    merge: Merge,
}

/// Returns a value beside its output.
struct Aside(Linear);

impl Layer<Tensor> for Aside {
    type Out = (Tensor, Tensor);

    fn run(&self, x: Tensor, _cx: &Context) -> Self::Out {
        let y = x.apply(&self.0);
        (y.tanh(), y.sin())
    }
}

#[pipeline(allow(short_skip))]
struct Pieces {
    #[device("cpu")]
    #[recompute]
    #[stash(first = input)]
    begin: Linear,
    #[recompute]
    norm: BatchNorm,
    #[stash(far = output)]
    kept: Linear,
    #[recompute]
    #[stash(side)]
    fork: Aside,
    #[recompute]
    #[pop(first)]
    merge: Merge,
    #[device("cpu")]
    #[recompute]
    block: Block,
    #[recompute]
    drop: FuncT<'static>,
    #[recompute]
    maybe: Option<Linear>,
    #[recompute]
    none: Option<Linear>,
    #[pop(side)]
    merge_side: Merge,
    #[devices("cpu" = 1, "cpu" = 2)]
    #[recompute(2)]
    #[stash(before = input, after = output)]
    more: [Linear; 3],
    #[recompute]
    #[pop(before)]
    merge_before: Merge,
    #[pop(after)]
    merge_after: Merge,
    #[recompute]
    #[pop(far)]
    end: Merge,
}

impl Case for Pieces {
    type Vars = PiecesVars;

    fn make(stages: usize) -> (Self, PiecesVars) {
        let vars = Pieces::vars(&Devices::cpu(stages)).unwrap();
        let inner = Block::vars_at(vars.block());
        let model = Pieces {
            begin: linear(vars.begin(), 8, 8),
            norm: nn::batch_norm1d(vars.norm(), 8, Default::default()),
            kept: linear(vars.kept(), 8, 8),
            fork: Aside(linear(vars.fork(), 8, 8)),
            merge: Merge,
            block: Block { wide: linear(inner.wide(), 8, 8), drop: dropout(0.3), merge: Merge },
            drop: dropout(0.4),
            maybe: Some(linear(vars.maybe(), 8, 8)),
            none: None,
            merge_side: Merge,
            more: vars.more().map(|path| linear(path, 8, 8)),
            merge_before: Merge,
            merge_after: Merge,
            end: Merge,
        };
        (model, vars)
    }

    fn input(rows: i64) -> (Tensor, Vec<Tensor>) {
        let x = leaf(rows);
        (x.shallow_clone(), vec![x])
    }

    fn tensors(output: Tensor) -> Vec<Tensor> {
        vec![output]
    }
}

fn settings() -> impl Strategy<Value = Settings> {
    let checkpoint = prop_oneof![Just(Checkpoint::Always), Just(Checkpoint::ExceptLast), Just(Checkpoint::Never)];
    // Batch norm trains on two rows at least.
    (2..5_i64, 1..7_usize, checkpoint, 0..1000_i64, prop::bool::weighted(0.8), 0.01..1.).prop_map(
        |(rows, chunks, checkpoint, seed, training, merged)| Settings {
            rows: rows * chunks as i64,
            chunks,
            checkpoint,
            seed,
            training,
            merged,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pieces_with_skips_blocks_and_statistics_are_transparent(settings in settings()) {
        assert_transparent::<Pieces>(settings);
    }
}

const CHUNKS: usize = 4;

fn mixed() -> Vec<LayerSpec> {
    [Creature::Mix; 4].map(LayerSpec::from).to_vec()
}

#[test]
fn a_marked_layer_runs_twice_for_each_micro_batch_and_no_other_does() {
    let _serial = pipe_tests::serial();
    let batch = Batch::of::<Recomputed2>(8);
    for method in ScheduleKind::ALL.into_iter().filter(|method| runs(*method, 2, CHUNKS)) {
        let build = |mode| Watched::<Recomputed2>::build(&mixed(), 1, CHUNKS, mode, Call::Step(method)).unwrap().0;
        let again = |mode| {
            let mut watched = build(mode);
            watched.run(&batch, 2).unwrap();
            watched.probe.take().iter().map(|passes| passes.again).collect::<Vec<_>>()
        };
        assert_eq!(again(Checkpoint::Never), [4, 4, 4, 0], "{method}");
        // A stage that is recomputed as a whole recomputes its layers once.
        assert!(again(Checkpoint::Always).iter().all(|&again| again <= 4), "{method}");
    }
}

#[test]
fn a_recomputation_that_fails_says_where_and_changes_nothing() {
    let _serial = pipe_tests::serial();
    let batch = Batch::of::<Recomputed4>(8);
    for method in ScheduleKind::ALL.into_iter().filter(|method| runs(*method, 4, CHUNKS)) {
        for call in [Call::Step(method), Call::Forward { wants_gradient: true }] {
            if call.method() != method {
                continue;
            }
            let build = || Watched::<Recomputed4>::build(&mixed(), 1, CHUNKS, Checkpoint::Never, call).unwrap().0;
            let mut watched = build();
            let fault = Fault { layer: 2, micro_batch: 1, recomputing: true, how: How::Panic };
            watched.assert_failure_leaves_nothing(&batch, fault, &method);
            watched.probe.fail(fault);
            let error = watched.run(&batch, 2).unwrap_err();
            if let Error::Failed(failure) = &error {
                assert_eq!((failure.phase, failure.layer.as_str()), (Phase::Recomputation, "layers.2"), "{error}");
            } else {
                assert!(error.to_string().contains("recomputation"), "{error}");
            }
            // The next step is that of a pipeline without a failure.
            watched.probe.fail(None);
            let (found, fresh) = (watched.run(&batch, 3).unwrap(), build().run(&batch, 3).unwrap());
            assert_eq!((found.output, found.gradients), (fresh.output, fresh.gradients), "{method}");
        }
    }
}

#[test]
fn the_number_of_recomputed_layers_is_that_of_all_parts_together() {
    let _serial = pipe_tests::serial();
    assert_eq!((Recomputed2::RECOMPUTED, Recomputed2::STAGES), (3, 2));
    assert_eq!(Recomputed2::stages(&mixed()), [0, 0, 1, 1], "the third one is in the second stage");
}

#[test]
fn a_retained_graph_is_recomputed_again() {
    let _serial = pipe_tests::serial();
    tch::manual_seed(4);
    let (model, vars) = Pieces::make(Pieces::STAGES);
    let mut pipe = model.pipe(&vars).chunks(2).checkpoint(Checkpoint::Never).intra_op_threads(1).build().unwrap();
    let x = leaf(8);
    let y = pipe.forward(&x).unwrap().square().sum(tch::Kind::Float);
    let weights = vars.var_store().trainable_variables();
    let run = |keep: bool| Tensor::f_run_backward(&[&y], &weights, keep, false).unwrap();
    let first = run(true);
    assert_eq!(first, run(false));
    let error = Tensor::f_run_backward(&[&y], &weights, false, false).unwrap_err().to_string();
    assert!(error.contains("second time") || error.contains("freed"), "{error}");
}

/// Counts the micro-batches in a variable and in a cell, which the next layers read.
struct Count {
    variable: Tensor,
    cell: Arc<Carried<Tensor>>,
}

impl Layer<Tensor> for Count {
    type Out = Tensor;

    fn run(&self, x: Tensor, cx: &Context) -> Tensor {
        if cx.is_training() {
            tch::no_grad(|| {
                let _ = self.variable.shallow_clone().g_add_scalar_(1.);
            });
            let before = self.cell.get(cx).unwrap_or_else(|| Tensor::from(1.0_f32));
            self.cell.set(cx, before + 1.);
        }
        x.tanh()
    }
}

/// Scales by what was counted. Its output shows it, or its gradient alone.
struct Scale {
    variable: Tensor,
    cell: Arc<Carried<Tensor>>,
    linear: Linear,
    is_seen: bool,
}

impl Layer<Tensor> for Scale {
    type Out = Tensor;

    fn run(&self, x: Tensor, cx: &Context) -> Tensor {
        let y = x.apply(&self.linear);
        let counted = self.cell.get(cx).unwrap_or_else(|| Tensor::from(1.0_f32));
        let scaled = &y * self.variable.copy() * counted;
        if self.is_seen { scaled } else { &scaled - scaled.detach() + y }
    }
}

/// Defines a stage whose layers read the state that layers before and after them change.
macro_rules! counting {
    ($name:ident $(, #[$mark:meta])?) => {
        #[pipeline(allow(single_stage), chunks = 4)]
        struct $name {
            #[device("cpu")]
            $(#[$mark])?
            early: Scale,
            count: Count,
            $(#[$mark])?
            late: Scale,
            $(#[$mark])?
            again: Count,
            end: Scale,
        }

        impl $name {
            fn steps(checkpoint: Checkpoint, schedule: ScheduleKind, is_seen: bool) -> Vec<Tensor> {
                tch::manual_seed(5);
                let vars = $name::vars(&Devices::cpu(1)).unwrap();
                let variable = vars.count().zeros_no_train("count", &[1]);
                let cell = Arc::new(Carried::new());
                let count = || Count { variable: variable.shallow_clone(), cell: Arc::clone(&cell) };
                let scale = |path: nn::Path<'_>| Scale {
                    variable: variable.shallow_clone(),
                    cell: Arc::clone(&cell),
                    linear: linear(path, 8, 8),
                    is_seen,
                };
                let net = $name {
                    early: scale(vars.early()),
                    count: count(),
                    late: scale(vars.late()),
                    again: count(),
                    end: scale(vars.end()),
                };
                let mut pipe = net.pipe(&vars).checkpoint(checkpoint).schedule(schedule).build().unwrap();
                let mut found = Vec::new();
                for _ in 0..2 {
                    let x = pipe_tests::compare::rows(8);
                    let report = pipe.train_step(&x, (), |y: &Tensor, ()| y.square().mean(None)).unwrap();
                    found.extend([report.loss, variable.copy()]);
                    found.extend(vars.var_store().trainable_variables().iter().map(|weight| weight.grad().copy()));
                }
                found
            }
        }
    };
}

counting!(CountedKept);
counting!(CountedAgain, #[recompute]);

/// A recomputed layer sees the state that layers of its stage before it had left, and not yet those
/// after it, whatever later micro-batches did.
#[test]
fn a_recomputed_layer_sees_the_state_that_its_first_pass_saw() {
    let _serial = pipe_tests::serial();
    for is_seen in [true, false] {
        for schedule in [ScheduleKind::GPipe, ScheduleKind::OneFOneB] {
            let kept = CountedKept::steps(Checkpoint::Never, schedule, is_seen);
            assert_eq!(kept[1], Tensor::from_slice(&[8.0_f32]));
            for checkpoint in [Checkpoint::Never, Checkpoint::ExceptLast, Checkpoint::Always] {
                assert_eq!(CountedKept::steps(checkpoint, schedule, is_seen), kept, "{checkpoint:?} {schedule}");
                assert_eq!(CountedAgain::steps(checkpoint, schedule, is_seen), kept, "{checkpoint:?} {schedule}");
            }
        }
    }
}

/// Saves the variable itself for its backward.
struct Times(Tensor);

impl Layer<Tensor> for Times {
    type Out = Tensor;

    fn run(&self, x: Tensor, _cx: &Context) -> Tensor {
        x * &self.0
    }
}

/// Adds one to the variable in each micro-batch.
struct AddOne(Tensor);

impl Layer<Tensor> for AddOne {
    type Out = Tensor;

    fn run(&self, x: Tensor, cx: &Context) -> Tensor {
        if cx.is_training() && !cx.is_recomputing() {
            let _ = tch::no_grad(|| self.0.shallow_clone().g_add_scalar_(1.));
        }
        x.tanh()
    }
}

#[pipeline(allow(single_stage), chunks = 2)]
struct Saving {
    #[device("cpu")]
    first: Linear,
    #[recompute]
    early: Times,
    add: AddOne,
    last: Linear,
}

/// The graph of a recomputed layer saved the variable as it was in its first pass. A layer behind
/// it, and the next micro-batch, have changed it since.
#[test]
fn the_graph_of_a_recomputed_layer_sees_the_state_that_it_saved() {
    let _serial = pipe_tests::serial();
    for schedule in [ScheduleKind::GPipe, ScheduleKind::OneFOneB, ScheduleKind::ZbH1] {
        tch::manual_seed(6);
        let vars = Saving::vars(&Devices::cpu(1)).unwrap();
        let variable = vars.add().ones_no_train("count", &[1]);
        let (first, last) = (linear(vars.first(), 8, 8), linear(vars.last(), 8, 8));
        let x = pipe_tests::compare::rows(4);
        let plain = |rows: i64, scale: f64| {
            let y = (x.narrow(0, rows, 2).apply(&first) * scale).tanh().apply(&last);
            y.square().mean(None)
        };
        // The first micro-batch is scaled by 1, the second one by 2.
        let loss = (plain(0, 1.) + plain(2, 2.)) / 2.;
        let weights = vars.var_store().trainable_variables();
        let expected = Tensor::run_backward(&[&loss], &weights, false, false);
        let net = Saving { early: Times(variable.shallow_clone()), add: AddOne(variable.shallow_clone()), first, last };
        let mut pipe = net.pipe(&vars).schedule(schedule).build().unwrap();
        pipe.train_step(&x, (), |y: &Tensor, ()| y.square().mean(None)).unwrap();
        for (weight, expected) in weights.iter().zip(expected) {
            assert!(weight.grad().allclose(&expected, 1e-5, 1e-7, false), "{schedule}");
        }
        assert_eq!(f64::try_from(&variable.get(0)).unwrap(), 3.);
    }
}
