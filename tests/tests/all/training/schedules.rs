//! Every schedule trains with skips, dropout, checkpointing and ragged batches, and gives the same
//! results as the unpipelined run.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pipe_runtime::schedule::ActionKind;
use pipe_runtime::{Checkpoint, Devices, Pipe, PipeBuilder, ScheduleKind, Unpipelined, pipeline};
use pipe_tests::compare::rows;
use pipe_tests::layers::{Fork, Merge, Merge4, dropout, linear};
use proptest::prelude::*;
use tch::Tensor;
use tch::nn::{FuncT, Linear, func_t};

/// A model of four stages, with skips inside a stage, to the next stage, over several stages, and
/// across each other.
#[pipeline(allow(short_skip))]
struct Four {
    #[device("cpu")]
    #[stash(far = output, near = input)]
    first: Linear,
    drop1: FuncT<'static>,
    #[device("cpu")]
    #[pop(near)]
    merge_near: Merge,
    #[stash(a, b, inside = output)]
    fork: Fork,
    second: Linear,
    #[pop(inside)]
    merge_inside: Merge,
    #[device("cpu")]
    third: Linear,
    drop2: FuncT<'static>,
    #[stash(late = output)]
    fourth: Linear,
    #[device("cpu")]
    #[pop(far, a, b, late)]
    merge_all: Merge4,
    last: Linear,
}

fn four(vars: &FourVars) -> Four {
    Four {
        first: linear(vars.first(), 8, 8),
        drop1: dropout(0.3),
        merge_near: Merge,
        fork: Fork(linear(vars.fork(), 8, 8)),
        second: linear(vars.second(), 8, 8),
        merge_inside: Merge,
        third: linear(vars.third(), 8, 8),
        drop2: dropout(0.3),
        fourth: linear(vars.fourth(), 8, 8),
        merge_all: Merge4,
        last: linear(vars.last(), 8, 3),
    }
}

fn make(seed: i64) -> (Four, FourVars, Tensor, Tensor) {
    tch::manual_seed(seed);
    let vars = Four::vars(&Devices::cpu(Four::STAGES)).unwrap();
    let model = four(&vars);
    (model, vars, rows(23), Tensor::randn([23, 3], (tch::Kind::Float, tch::Device::Cpu)))
}

fn gradients(vars: &FourVars) -> Vec<(String, Tensor)> {
    let mut named: Vec<_> =
        vars.var_store().variables().into_iter().map(|(name, tensor)| (name, tensor.grad().copy())).collect();
    named.sort_by(|(a, _), (b, _)| a.cmp(b));
    named
}

/// Norm of the difference, relative to the norm of the expected tensor.
fn distance(found: &Tensor, expected: &Tensor) -> f64 {
    let norm = |tensor: &Tensor| f64::try_from(tensor.to_kind(tch::Kind::Double).norm()).unwrap();
    // The divisor is at least 1: terms of that size may cancel, but their rounding errors do not.
    norm(&(found - expected)) / norm(expected).max(1.)
}

fn methods() -> impl Strategy<Value = ScheduleKind> {
    prop::sample::select(ScheduleKind::ALL.to_vec())
}

fn checkpoints() -> impl Strategy<Value = Checkpoint> {
    prop_oneof![Just(Checkpoint::Always), Just(Checkpoint::ExceptLast), Just(Checkpoint::Never)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_step_is_the_unpipelined_step(
        method in methods(),
        checkpoint in checkpoints(),
        chunks in 1..13_usize,
        rows in 1..24_i64,
        seed in 0..1000_i64,
        keeps_output in any::<bool>(),
    ) {
        let _serial = pipe_tests::serial();
        let (model, vars, x, y) = make(seed);
        let (x, y) = (x.narrow(0, 0, rows), y.narrow(0, 0, rows));
        let built = PipeBuilder::new(model, &vars)
            .chunks(chunks)
            .checkpoint(checkpoint)
            .schedule(method)
            .intra_op_threads(1)
            .build();
        // Building fails for a number of chunks that the schedule cannot run. A mini-batch with
        // fewer micro-batches can run with any number of them.
        let (ranks, per_rank) = ranks(method);
        prop_assert_eq!(built.is_ok(), method.check(ranks, per_rank, chunks).is_ok());
        let Ok(mut pipe) = built else { return Ok(()) };
        tch::manual_seed(seed);
        let mse = |output: &Tensor, y: &Tensor| output.mse_loss(y, tch::Reduction::Mean);
        let (kept, loss, losses, stages) = if keeps_output {
            let report = pipe.step().keep_output().run(&x, &y, mse).unwrap();
            (Some(report.output), report.loss, report.losses, report.stages)
        } else {
            let report = pipe.train_step(&x, &y, mse).unwrap();
            (None, report.loss, report.losses, report.stages)
        };
        let found = gradients(&vars);

        let (model, vars, ..) = make(seed);
        tch::manual_seed(seed);
        let output = Unpipelined::new(&model).chunks(chunks).intra_op_threads(1).forward(&x).unwrap();
        let parts = output.f_chunk(chunks as i64, 0).unwrap().into_iter().zip(y.f_chunk(chunks as i64, 0).unwrap());
        let weighted = parts.map(|(output, y)| {
            let weight = output.size()[0] as f64 / rows as f64;
            output.mse_loss(&y, tch::Reduction::Mean) * weight
        });
        let expected: Tensor = weighted.sum();
        expected.backward();
        prop_assert!(kept.is_none_or(|kept| kept == output.detach()));
        prop_assert!(loss.allclose(&expected, 1e-6, 1e-7, false));
        for ((name, found), (_, expected)) in found.iter().zip(gradients(&vars)) {
            // Only GPipe sums micro-batches in the order of the unpipelined run.
            let same = match method {
                ScheduleKind::GPipe => *found == expected,
                _ => distance(found, &expected) < 1e-6,
            };
            prop_assert!(same, "{method} {checkpoint}: {name}");
        }

        // The peak in flight never exceeds that of the lists, whatever the workers' speeds.
        let rank_of: Vec<_> = (0..Four::STAGES).map(|stage| method.rank_of(stage, ranks, per_rank)).collect();
        let lists = method.schedule_within(&rank_of, losses.len(), chunks).unwrap();
        let order = lists.order().unwrap();
        let declared = lists.peak_in_flight_by_stage();
        for (stage, seen) in stages.iter().enumerate() {
            let (found, declared) = (seen.peak_in_flight, declared[&stage]);
            prop_assert!(found <= declared, "{method}: stage {stage} has {found} in flight, declared {declared}");
            let transit = |from: usize| order.in_transit(ActionKind::Forward, from, stage);
            let queued = stage.checked_sub(1).map_or(0, transit);
            prop_assert!(seen.peak_queued <= queued, "{method}: {} wait for stage {stage}, declared {queued}", seen.peak_queued);
            let skips = Four::PLAN.skips.iter().filter(|skip| skip.to == stage && skip.from != stage);
            let skips = skips.map(|skip| transit(skip.from)).max().unwrap_or(0);
            prop_assert!(seen.peak_skips <= skips, "{method}: {} skips wait for stage {stage}, declared {skips}", seen.peak_skips);
        }
    }

    /// A split backward gives the same gradients as a whole one, bit by bit.
    #[test]
    fn splitting_the_backward_changes_no_bit(
        checkpoint in checkpoints(),
        rows in 1..24_i64,
        seed in 0..1000_i64,
    ) {
        let _serial = pipe_tests::serial();
        let step = |method| {
            let (model, vars, x, y) = make(seed);
            let (x, y) = (x.narrow(0, 0, rows), y.narrow(0, 0, rows));
            let mut pipe: Pipe<Four> = PipeBuilder::new(model, &vars)
                .chunks(1)
                .checkpoint(checkpoint)
                .schedule(method)
                .intra_op_threads(1)
                .build()
                .unwrap();
            tch::manual_seed(seed);
            pipe.train_step(&x, &y, |output, y: &Tensor| output.mse_loss(y, tch::Reduction::Mean)).unwrap();
            gradients(&vars)
        };
        prop_assert_eq!(step(ScheduleKind::ZbH1), step(ScheduleKind::GPipe));
    }
}

fn ranks(method: ScheduleKind) -> (usize, usize) {
    let per_rank = match method {
        ScheduleKind::GPipe | ScheduleKind::ZbH1 => 1,
        _ => method.stages_per_rank().unwrap_or(2),
    };
    (Four::STAGES / per_rank, per_rank)
}

/// Nothing runs a layer only to learn its shapes, and a split backward recomputes once, too.
/// Nothing is recomputed where the backward follows the forward at once.
#[test]
fn a_layer_runs_once_for_each_micro_batch_and_at_most_once_more_where_it_is_checkpointed() {
    let _serial = pipe_tests::serial();
    for method in ScheduleKind::ALL {
        for (checkpoint, again) in [(Checkpoint::Never, 0), (Checkpoint::ExceptLast, 7), (Checkpoint::Always, 8)] {
            let (mut model, vars, ..) = make(1);
            let runs = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
            let [drop1, drop2] = runs.clone().map(|runs| {
                func_t(move |x, _| {
                    runs.fetch_add(1, Ordering::Relaxed);
                    x.tanh()
                })
            });
            (model.drop1, model.drop2) = (drop1, drop2);
            let mut pipe = model.pipe(&vars).chunks(8).checkpoint(checkpoint).schedule(method).build().unwrap();
            for step in 1..=2 {
                pipe.train_step(rows(16), (), |output, (): &()| output.sum(tch::Kind::Float)).unwrap();
                let found = runs.each_ref().map(|runs| runs.load(Ordering::Relaxed));
                let expected = step * 8..=step * (8 + again);
                assert!(found.iter().all(|runs| expected.contains(runs)), "{method} {checkpoint}: {found:?}");
            }
        }
    }
}

#[test]
fn the_memory_of_1f1b_does_not_grow_with_the_number_of_micro_batches() {
    let _serial = pipe_tests::serial();
    let in_flight = |method: ScheduleKind, chunks| {
        let (model, vars, ..) = make(1);
        let mut pipe = model.pipe(&vars).chunks(chunks).schedule(method).build().unwrap();
        let report = pipe.train_step(rows(64), (), |output, (): &()| output.sum(tch::Kind::Float)).unwrap();
        report.stages.iter().map(|stage| stage.peak_in_flight).collect::<Vec<_>>()
    };
    for chunks in [4, 16, 64] {
        let found = in_flight(ScheduleKind::OneFOneB, chunks);
        assert!(found.iter().zip([4, 3, 2, 1]).all(|(&found, most)| found <= most), "{found:?}");
        assert_eq!(in_flight(ScheduleKind::GPipe, chunks), [chunks; 4]);
    }
}

#[test]
fn forward_and_backward_are_for_gpipes_order_and_say_so() {
    let _serial = pipe_tests::serial();
    let (model, vars, x, _) = make(1);
    let mut pipe = model.pipe(&vars).chunks(4).schedule(ScheduleKind::OneFOneB).build().unwrap();
    let error = pipe.forward(&x).unwrap_err().to_string();
    assert!(error.contains("this pipeline was built for `1f1b`: use `train_step`"), "{error}");
    pipe.eval();
    assert_eq!(tch::no_grad(|| pipe.forward(&x)).unwrap().size(), [23, 3]);
}

#[test]
fn what_a_schedule_cannot_run_is_an_error_with_the_numbers() {
    let _serial = pipe_tests::serial();
    let (model, vars, ..) = make(1);
    let error = model.pipe(&vars).chunks(3).schedule(ScheduleKind::DualPipeV).build().unwrap_err().to_string();
    assert!(error.contains("3") && error.contains("4"), "{error}");
    let (model, vars, ..) = make(1);
    let error =
        model.pipe(&vars).chunks(3).schedule(ScheduleKind::Interleaved).ranks(3).build().unwrap_err().to_string();
    assert!(error.contains("the model has 4 stages for 3 ranks"), "{error}");
}

/// A model with an annotated schedule, which the builder can override.
#[pipeline(chunks = 4, schedule = zbv)]
struct Annotated {
    #[device("cpu")]
    first: Linear,
    #[device("cpu")]
    second: Linear,
    #[device("cpu")]
    third: Linear,
    #[device("cpu")]
    last: Linear,
}

#[test]
fn an_annotated_schedule_trains_unless_another_is_chosen() {
    let _serial = pipe_tests::serial();
    let train = |schedule: Option<ScheduleKind>| {
        tch::manual_seed(1);
        let vars = Annotated::vars(&Devices::cpu(Annotated::STAGES)).unwrap();
        let model = Annotated {
            first: linear(vars.first(), 8, 8),
            second: linear(vars.second(), 8, 8),
            third: linear(vars.third(), 8, 8),
            last: linear(vars.last(), 8, 3),
        };
        let mut pipe = model.pipe(&vars).schedule(schedule).build().unwrap();
        let report = pipe.train_step(rows(8), (), |output, (): &()| output.mean(tch::Kind::Float)).unwrap();
        let gradient = vars.var_store().variables()["first.weight"].grad().copy();
        (pipe.schedule().clone(), report.loss, gradient)
    };
    let (annotated, loss, gradient) = train(None);
    assert_eq!(annotated, ScheduleKind::Zbv.into());
    let (chosen, expected_loss, expected) = train(Some(ScheduleKind::GPipe));
    assert_eq!(chosen, ScheduleKind::GPipe.into());
    assert_eq!(loss, expected_loss);
    assert!(expected.abs().sum(tch::Kind::Float).double_value(&[]) > 0.);
    assert!(distance(&gradient, &expected) < 1e-6);
}

#[test]
fn an_annotated_schedule_tells_forward_to_go_another_way() {
    let _serial = pipe_tests::serial();
    let vars = Annotated::vars(&Devices::cpu(Annotated::STAGES)).unwrap();
    let layer = |path| linear(path, 8, 8);
    let model = Annotated {
        first: layer(vars.first()),
        second: layer(vars.second()),
        third: layer(vars.third()),
        last: layer(vars.last()),
    };
    let error = model.pipe(&vars).build().unwrap().forward(rows(8)).unwrap_err().to_string();
    assert!(error.contains("this pipeline was built for `zbv`: use `train_step`"), "{error}");
}

/// Stages that share a device count as one stage under every schedule.
#[test]
fn merged_stages_count_as_one_and_the_model_comes_back_whole() {
    let _serial = pipe_tests::serial();
    let train = |devices: usize, schedule| {
        tch::manual_seed(5);
        let vars = Four::vars(&Devices::cpu(devices)).unwrap();
        let mut pipe = four(&vars).pipe(&vars).chunks(8).schedule(schedule).build().unwrap();
        let mse = |output: &Tensor, y: &Tensor| output.mse_loss(y, tch::Reduction::Mean);
        let (x, y) = (rows(16), Tensor::zeros([16, 3], (tch::Kind::Float, tch::Device::Cpu)));
        let report = pipe.train_step(&x, &y, mse).unwrap();
        assert_eq!(report.stages.len(), devices);
        let whole = pipe.into_inner();
        assert_eq!(Unpipelined::new(&whole).training(false).forward(&x).unwrap().size(), [16, 3]);
        (report.loss, gradients(&vars))
    };
    let (loss, expected) = train(Four::STAGES, ScheduleKind::GPipe);
    for (devices, schedule) in
        [(3, ScheduleKind::GPipe), (2, ScheduleKind::OneFOneB), (2, ScheduleKind::ZbH1), (1, ScheduleKind::OneFOneB)]
    {
        let (found_loss, found) = train(devices, schedule);
        assert_eq!(found_loss, loss);
        for ((name, found), (_, expected)) in found.iter().zip(&expected) {
            assert!(distance(found, expected) < 1e-6, "{name} on {devices} devices");
        }
    }
}
