//! A trace contains the steps that ran, and costs, simulations and pictures are made from it.

use std::time::Duration;

use pipe_runtime::schedule::{ActionKind, StageCosts};
use pipe_runtime::{Checkpoint, Context, Devices, Layer, Pipe, ScheduleKind, Trace, pipeline};
use pipe_tests::compare::rows;
use pipe_tests::layers::{Merge, linear};
use tch::Tensor;
use tch::nn::Linear;

/// A layer that sleeps for this many milliseconds in its forward.
struct Slow(u64);

impl Layer<Tensor> for Slow {
    type Out = Tensor;

    fn run(&self, x: Tensor, _cx: &Context) -> Tensor {
        std::thread::sleep(Duration::from_millis(self.0));
        x
    }
}

#[pipeline(chunks = 4)]
struct Net {
    #[device("cpu")]
    #[stash(early = output)]
    first: Linear,
    #[device("cpu")]
    slow: Slow,
    second: Linear,
    #[device("cpu")]
    narrow: Linear,
    #[pop(early)]
    merge: Merge,
    last: Linear,
}

fn net(method: ScheduleKind, mode: Checkpoint) -> (Pipe<Net>, NetVars) {
    let vars = Net::vars(&Devices::cpu(Net::STAGES)).unwrap();
    let net = Net {
        first: linear(vars.first(), 8, 8),
        slow: Slow(4),
        second: linear(vars.second(), 8, 16),
        narrow: linear(vars.narrow(), 16, 8),
        merge: Merge,
        last: linear(vars.last(), 8, 8),
    };
    let pipe = net.pipe(&vars).schedule(method).checkpoint(mode).intra_op_threads(1).build().unwrap();
    (pipe, vars)
}

fn steps(pipe: &mut Pipe<Net>, count: usize) {
    let (x, y) = (rows(8), rows(8));
    for _ in 0..count {
        pipe.train_step(&x, &y, |output, y: &Tensor| output.mse_loss(y, tch::Reduction::Mean)).unwrap();
    }
}

fn traced(method: ScheduleKind, mode: Checkpoint, count: usize) -> Trace {
    let (mut pipe, _vars) = net(method, mode);
    steps(&mut pipe, 1);
    pipe.start_trace();
    steps(&mut pipe, count);
    pipe.stop_trace().unwrap()
}

#[test]
fn every_action_of_every_step_is_there_once_and_in_order() {
    let _serial = pipe_tests::serial();
    for method in [ScheduleKind::GPipe, ScheduleKind::OneFOneB, ScheduleKind::ZbH1] {
        let trace = traced(method, Checkpoint::ExceptLast, 3);
        assert_eq!(trace.runs().len(), 3);
        let expected = method.schedule(3, 1, 4).unwrap().with_recompute(|_, micro_batch| micro_batch < 3);
        for run in trace.runs() {
            assert_eq!(run.schedule, expected, "{method}");
            let timeline = run.timeline();
            for (rank, list) in timeline.ranks.iter().enumerate() {
                assert!(list.iter().map(|span| span.action).eq(expected.ranks[rank].iter().copied()));
                assert!(list.windows(2).all(|pair| pair[0].end <= pair[1].start));
            }
            // Each step starts after the steps that it waits for have ended.
            let order = run.schedule.order().unwrap();
            let times = |action| run.steps.iter().find(|step| step.action == action).unwrap();
            for step in &order.steps {
                for &earlier in &step.after {
                    assert!(times(order.steps[earlier].action).end <= times(step.action).start);
                }
            }
        }
        assert!(trace.runs().windows(2).all(|pair| pair[0].steps[0].start < pair[1].steps[0].start));
    }
}

#[test]
fn costs_are_what_was_measured() {
    let _serial = pipe_tests::serial();
    let trace = traced(ScheduleKind::ZbH1, Checkpoint::Never, 3);
    let costs = trace.costs();
    // Stage 1 sleeps 4 ms in its forward, and no stage sleeps in its backward.
    assert!(costs.stages[1].forward >= 4e-3, "{costs:?}");
    assert!(costs.stages[1].forward > costs.stages[0].forward && costs.stages[1].recompute == costs.stages[1].forward);
    assert!(costs.stages.iter().all(|stage| stage.backward_input > 0. && stage.backward_weight > 0.));
    // A micro-batch has two rows of eight numbers of four bytes, or of sixteen into the last stage.
    // The skip is the same tensor as what goes to the next stage, which holds it already.
    assert_eq!(costs.boundaries.iter().map(|boundary| boundary.size).collect::<Vec<_>>(), [64., 128.]);
    assert_eq!(
        costs.skips.iter().map(|skip| (skip.from, skip.to, skip.transfer.size)).collect::<Vec<_>>(),
        [(0, 2, 0.)]
    );
    assert_eq!(costs.skips[0].transfer.gradient, 64.);
    // The first stage's inputs are a part of the caller's.
    assert_eq!(costs.stages.iter().map(|stage| stage.checkpoint).collect::<Vec<_>>(), [0., 64., 192.]);
    // These are the bytes of weights and biases.
    let parameters = |stage: &StageCosts| (stage.parameters, stage.gradients);
    let bytes = [288., 576., 832.].map(|bytes| (bytes, bytes));
    assert_eq!(costs.stages.iter().map(parameters).collect::<Vec<_>>(), bytes);
    // At least the inputs of the last two stages are kept.
    assert!(costs.stages[1].activation >= 64. && costs.stages[2].activation >= 128., "{costs:?}");

    let simulated = trace.simulated().unwrap();
    let work = 4. * costs.stages[1].forward;
    assert!(simulated.makespan >= work && trace.typical().timeline().makespan >= work);
}

#[test]
fn a_forward_and_its_backward_are_runs_of_their_own() {
    let _serial = pipe_tests::serial();
    let (mut pipe, _vars) = net(ScheduleKind::GPipe, Checkpoint::Always);
    pipe.start_trace();
    pipe.forward(rows(8)).unwrap().sum(tch::Kind::Float).backward();
    let _constant = tch::no_grad(|| pipe.forward(rows(2))).unwrap();
    let trace = pipe.stop_trace().unwrap();
    let counts: Vec<_> = trace.runs().iter().map(|run| (run.schedule.micro_batches, run.steps.len())).collect();
    assert_eq!(counts, [(4, 12), (4, 24), (2, 6)]);
    assert_eq!(trace.typical(), &trace.runs()[1]);
    assert!(trace.runs()[0].steps.iter().all(|step| step.action.kind == ActionKind::Forward));
}

#[test]
fn pictures_show_what_ran_above_what_is_simulated() {
    let _serial = pipe_tests::serial();
    let trace = traced(ScheduleKind::OneFOneB, Checkpoint::Never, 3);
    let text = trace.to_string();
    let (measured, simulated) = text.split_once("simulated from the measured costs: ").unwrap();
    assert!(measured.starts_with("measured: ") && measured.contains(" ms, "), "{text}");
    assert_eq!((measured.matches("\nrank ").count(), simulated.matches("\nrank ").count()), (3, 3), "{text}");
    // The forwards of stage 1 are long enough to show their names in both pictures.
    for name in ["F0-", "F1-", "F2-", "F3-"] {
        assert!(measured.contains(name) && simulated.contains(name), "{text}");
    }
    let picture = trace.to_svg();
    assert!(picture.contains(">measured: ") && picture.contains(">simulated from "), "{picture}");
    assert_eq!(picture.matches("<title>").count(), 2 * 24);
}

#[test]
fn chromes_events_are_json_with_a_row_per_rank() {
    let _serial = pipe_tests::serial();
    let trace = traced(ScheduleKind::ZbH1, Checkpoint::Never, 2);
    let json: serde_json::Value = serde_json::from_str(&trace.to_chrome()).unwrap();
    let events = json["traceEvents"].as_array().unwrap();
    let of = |phase: &str| events.iter().filter(|event| event["ph"] == phase).collect::<Vec<_>>();
    assert_eq!(of("M").iter().filter(|event| event["name"] == "thread_name").count(), 3);
    assert_eq!(of("X").len(), 2 * 3 * 4 * 3);
    let step = &trace.runs()[0].steps[0];
    let first = of("X")[0];
    assert_eq!((&first["name"], &first["tid"]), (&"F0 stage 0".into(), &0.into()));
    let microseconds = |name: &str| first[name].as_f64().unwrap();
    assert!((microseconds("ts") - step.start * 1e6).abs() < 1e-2);
    assert!((microseconds("dur") - (step.end - step.start) * 1e6).abs() < 1e-2);
}

#[test]
fn tracing_changes_no_number() {
    let _serial = pipe_tests::serial();
    let gradients = |traced: bool| {
        tch::manual_seed(1);
        let (mut pipe, vars) = net(ScheduleKind::OneFOneB, Checkpoint::Always);
        if traced {
            pipe.start_trace();
        }
        steps(&mut pipe, 2);
        let mut named: Vec<_> = vars.var_store().variables().into_iter().collect();
        named.sort_by(|(a, _), (b, _)| a.cmp(b));
        named.into_iter().map(|(_, tensor)| tensor.grad()).collect::<Vec<_>>()
    };
    assert_eq!(gradients(true), gradients(false));
}

#[test]
fn a_trace_without_steps_is_an_error_that_says_so() {
    let _serial = pipe_tests::serial();
    let (mut pipe, _vars) = net(ScheduleKind::GPipe, Checkpoint::Never);
    let error = pipe.stop_trace().unwrap_err().to_string();
    assert!(error.contains("call `start_trace` first"), "{error}");
    pipe.start_trace();
    let error = pipe.stop_trace().unwrap_err().to_string();
    assert!(error.contains("nothing has run since the trace was started"), "{error}");
    pipe.start_trace();
    let failing = |_: &Tensor, (): &()| -> Tensor { std::panic::resume_unwind(Box::new("no loss")) };
    pipe.train_step(rows(8), (), failing).unwrap_err();
    pipe.stop_trace().unwrap_err();
    steps(&mut pipe, 1);
    assert!(pipe.stop_trace().is_err());
}
