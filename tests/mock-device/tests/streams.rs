//! Pipelines on accelerators: they give the CPU's results, and device streams wait for each other
//! wherever they must.

use pipe_mock_device::{Entry, Kind, devices, draw, log, named, violations};
use pipe_runtime::{Checkpoint, Context, Devices, Layer, Pipe, ScheduleKind, pipeline};
use tch::nn::{self, Linear, OptimizerConfig};
use tch::{Device, Tensor};

const GPU0: Device = Device::Cuda(0);
const GPU1: Device = Device::Cuda(1);

/// A model of four stages, with skips to the next stage, over several stages, and across each
/// other.
#[pipeline(chunks = 3, allow(short_skip))]
struct Net {
    #[device("cpu")]
    #[stash(far = output, near = input)]
    first: Linear,
    #[device("cpu")]
    #[pop(near)]
    merge_near: Merge,
    #[stash(late = output)]
    #[recompute]
    second: Linear,
    #[device("cpu")]
    third: Linear,
    #[device("cpu")]
    #[pop(far, late)]
    merge_far: MergeTwo,
    last: Linear,
}

struct Merge;

impl Layer<(Tensor, Tensor)> for Merge {
    type Out = Tensor;

    fn run(&self, (x, skip): (Tensor, Tensor), _cx: &Context) -> Tensor {
        x.tanh() + skip
    }
}

struct MergeTwo;

impl Layer<(Tensor, Tensor, Tensor)> for MergeTwo {
    type Out = Tensor;

    fn run(&self, (x, a, b): (Tensor, Tensor, Tensor), _cx: &Context) -> Tensor {
        x * a.sigmoid() + b
    }
}

/// Placements: one device, two devices, stages that return to a device, and accelerators mixed with
/// the CPU.
const PLACES: [[Device; 4]; 7] = [
    [GPU0; 4],
    [GPU0, GPU0, GPU1, GPU1],
    [GPU0, GPU1, GPU0, GPU1],
    [GPU1, GPU0, GPU0, GPU1],
    [Device::Cpu, GPU0, Device::Cpu, GPU1],
    [GPU0, Device::Cpu, GPU1, Device::Cpu],
    [GPU0, GPU0, Device::Cpu, Device::Cpu],
];
const MODES: [Checkpoint; 3] = [Checkpoint::Always, Checkpoint::ExceptLast, Checkpoint::Never];

fn net(places: [Device; 4], mode: Checkpoint, method: ScheduleKind) -> pipe_runtime::Result<(Pipe<Net>, NetVars)> {
    tch::manual_seed(1);
    let vars = Net::vars(&Devices::new(places))?;
    let linear = |path: nn::Path<'_>| nn::linear(path, 6, 6, Default::default());
    let model = Net {
        first: linear(vars.first()),
        merge_near: Merge,
        second: linear(vars.second()),
        third: linear(vars.third()),
        merge_far: MergeTwo,
        last: linear(vars.last()),
    };
    draw(vars.var_store(), 2, |_| true);
    let pipe = model.pipe(&vars).checkpoint(mode).schedule(method).intra_op_threads(1).build()?;
    Ok((pipe, vars))
}

fn rows() -> Tensor {
    tch::manual_seed(3);
    Tensor::randn([7, 6], (tch::Kind::Float, Device::Cpu))
}

fn squares(output: &Tensor, target: &Tensor) -> Tensor {
    (output - target).square().mean(tch::Kind::Float)
}

fn gradients(vars: &NetVars) -> Vec<Tensor> {
    named(vars.var_store()).iter().map(|(_, variable)| variable.grad().to_device(Device::Cpu)).collect()
}

/// Runs two training steps with the optimizer, and returns the outputs and the second step's
/// gradients.
fn train(places: [Device; 4], mode: Checkpoint, method: ScheduleKind) -> pipe_runtime::Result<Vec<Tensor>> {
    let (mut pipe, vars) = net(places, mode, method)?;
    let mut optimizer = nn::Sgd::default().build(vars.var_store(), 0.1)?;
    let (x, y) = (rows().to_device(places[0]), (rows() * 2.).to_device(places[3]));
    let mut found = Vec::new();
    for _ in 0..2 {
        optimizer.zero_grad();
        let report = pipe.step().keep_output().run(&x, &y, squares)?;
        optimizer.step();
        found.push(report.output.to_device(Device::Cpu));
        found.push(report.loss.to_device(Device::Cpu));
    }
    found.extend(gradients(&vars));
    Ok(found)
}

/// Runs two steps of forward, loss and backward, with an input that requires a gradient.
fn forward_and_backward(places: [Device; 4], mode: Checkpoint) -> Vec<Tensor> {
    let (mut pipe, vars) = net(places, mode, ScheduleKind::GPipe).unwrap();
    let mut optimizer = nn::Sgd::default().build(vars.var_store(), 0.1).unwrap();
    let x = rows().to_device(places[0]).set_requires_grad(true);
    let mut found = Vec::new();
    for _ in 0..2 {
        optimizer.zero_grad();
        let output = pipe.forward(&x).unwrap();
        output.square().mean(tch::Kind::Float).backward();
        optimizer.step();
        found.push(output.detach().to_device(Device::Cpu));
    }
    found.push(x.grad().to_device(Device::Cpu));
    found.extend(gradients(&vars));
    found
}

fn assert_close(found: &[Tensor], expected: &[Tensor], what: &str) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.allclose(expected, 1e-5, 1e-6, false), "{what}: {found:?} instead of {expected:?}");
    }
}

fn assert_ordered(log: &[Entry], what: &str) {
    let found = violations(log);
    let shown: Vec<_> = found.iter().take(5).collect();
    assert!(found.is_empty(), "{what}: {} uses without order, such as {shown:#?}", found.len());
}

fn start() -> usize {
    log(0).len()
}

/// Lists the device streams on which `operator` has written, each once.
fn streams_of(log: &[Entry], operator: &str) -> Vec<i64> {
    let on = log.iter().filter(|entry| entry.kind == Kind::Write && entry.name == operator);
    let mut streams: Vec<_> = on.map(|entry| entry.stream).collect();
    streams.sort_unstable();
    streams.dedup();
    streams
}

#[test]
fn every_placement_mode_and_schedule_trains_as_on_the_cpu_and_in_order() {
    let Some(_alone) = devices() else { return };
    let expected = train([Device::Cpu; 4], Checkpoint::Never, ScheduleKind::GPipe).unwrap();
    let mut runs = 0;
    for places in PLACES {
        for mode in MODES {
            for method in ScheduleKind::ALL {
                let what = format!("{places:?}, {mode}, {method}");
                let from = start();
                // Building the pipeline fails if these stages cannot run the schedule.
                let Ok(found) = train(places, mode, method) else { continue };
                assert_close(&found, &expected, &what);
                assert_ordered(&log(from), &what);
                runs += 1;
            }
        }
    }
    // GPipe runs on every placement. Schedules for one stage per device, or for two, run where they
    // fit.
    assert!(runs >= PLACES.len() * MODES.len() + 12, "{runs}");
}

#[test]
fn forward_and_backward_give_what_they_give_on_the_cpu_and_in_order() {
    let Some(_alone) = devices() else { return };
    let expected = forward_and_backward([Device::Cpu; 4], Checkpoint::Never);
    for places in PLACES {
        for mode in MODES {
            let what = format!("{places:?}, {mode}");
            let from = start();
            assert_close(&forward_and_backward(places, mode), &expected, &what);
            assert_ordered(&log(from), &what);
        }
    }
}

#[test]
fn no_thread_waits_for_a_device_where_all_stages_are_on_accelerators() {
    let Some(_alone) = devices() else { return };
    for places in [PLACES[0], PLACES[1], PLACES[2]] {
        let (mut pipe, _vars) = net(places, Checkpoint::Always, ScheduleKind::GPipe).unwrap();
        let (x, y) = (rows().to_device(places[0]), rows().to_device(places[3]));
        let waits = |from| log(from).into_iter().filter(|entry| entry.kind.is_host_wait()).count();
        let from = start();
        pipe.forward(&x).unwrap().square().mean(tch::Kind::Float).backward();
        assert_eq!(waits(from), 0, "{places:?}");
        // Whether the losses are finite is one flag, read once.
        let from = start();
        let report = pipe.train_step(&x, &y, squares).unwrap();
        assert_eq!(waits(from), 1, "{places:?}");
        drop(report);
    }
}

#[test]
fn the_cpu_waits_for_events_alone_and_not_for_whole_streams() {
    let Some(_alone) = devices() else { return };
    let places = PLACES[5];
    let (mut pipe, _vars) = net(places, Checkpoint::Always, ScheduleKind::GPipe).unwrap();
    let (x, y) = (rows().to_device(places[0]), rows().to_device(places[3]));
    let from = start();
    pipe.train_step(&x, &y, squares).unwrap();
    let kinds: Vec<_> = log(from).into_iter().map(|entry| entry.kind).filter(|kind| kind.is_host_wait()).collect();
    assert!(!kinds.is_empty() && kinds.iter().all(|&kind| kind == Kind::HostWaitsForEvent), "{kinds:?}");
}

#[test]
fn each_stage_computes_on_a_stream_of_its_own_and_copies_on_others() {
    let Some(_alone) = devices() else { return };
    let (mut pipe, _vars) = net([GPU0, GPU0, GPU1, GPU1], Checkpoint::Never, ScheduleKind::GPipe).unwrap();
    let x = rows().to_device(GPU0);
    let from = start();
    let _output = tch::no_grad(|| pipe.forward(&x)).unwrap();
    let log = log(from);
    // Four linear layers, in four stages.
    let computing = streams_of(&log, "aten::addmm");
    assert_eq!(computing.len(), 4, "{computing:?}");
    assert!(computing.iter().all(|stream| stream % 1000 != 0), "not on the default streams: {computing:?}");
    let copying = streams_of(&log, "copy_");
    assert!(
        !copying.is_empty() && copying.iter().all(|stream| !computing.contains(stream)),
        "{copying:?}, {computing:?}"
    );
}

#[test]
fn a_pipeline_leaves_its_streams_to_the_next_one() {
    let Some(_alone) = devices() else { return };
    let x = rows().to_device(GPU0);
    let computing = |pipe: &mut Pipe<Net>| {
        let from = start();
        let _output = tch::no_grad(|| pipe.forward(&x)).unwrap();
        streams_of(&log(from), "aten::addmm")
    };
    let make = || net([GPU0, GPU0, GPU1, GPU1], Checkpoint::Never, ScheduleKind::GPipe).unwrap();
    let (mut first, _vars) = make();
    let streams = computing(&mut first);
    let (mut beside, _vars) = make();
    let others = computing(&mut beside);
    assert!(streams.iter().all(|stream| !others.contains(stream)), "{streams:?}, {others:?}");
    drop(first);
    let (mut next, _vars) = make();
    assert_eq!(computing(&mut next), streams);
}

#[test]
fn a_failed_step_leaves_the_streams_in_order() {
    let Some(_alone) = devices() else { return };
    let (mut pipe, vars) = net(PLACES[2], Checkpoint::ExceptLast, ScheduleKind::Interleaved).unwrap();
    let (x, y) = (rows().to_device(GPU0), rows().to_device(GPU1));
    let from = start();
    let failing = |output: &Tensor, y: &Tensor| {
        if output.size()[0] == 1 {
            std::panic::resume_unwind(Box::new("no loss"));
        }
        squares(output, y)
    };
    let error = pipe.train_step(&x, &y, failing).unwrap_err().to_string();
    assert!(error.contains("no loss"), "{error}");
    assert!(vars.var_store().trainable_variables().iter().all(|variable| !variable.grad().defined()));
    pipe.train_step(&x, &y, squares).unwrap();
    assert_ordered(&log(from), "after a failure");
}

#[test]
fn targets_that_are_not_on_the_last_stages_device_are_refused() {
    let Some(_alone) = devices() else { return };
    let (mut pipe, _vars) = net(PLACES[2], Checkpoint::Never, ScheduleKind::GPipe).unwrap();
    let (first, last) = (PLACES[2][0], PLACES[2][3]);
    assert_ne!(first, last);
    let error = pipe.train_step(rows().to_device(first), rows().to_device(first), squares).unwrap_err().to_string();
    assert!(error.starts_with("All targets should be on the same device as the last partition"), "{error}");
    pipe.train_step(rows().to_device(first), rows().to_device(last), squares).unwrap();
}
