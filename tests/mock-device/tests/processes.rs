//! Pipelines on accelerators of several processes, whose tensors go through the hosts or, over a
//! fake of NCCL, straight.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use pipe_mock_device::{FAKE_NCCL, draw, is_skipped, log, violations};
use pipe_runtime::{
    CheapOutputs, Checkpoint, Context, Devices, Error, Layer, Offload, Pipe, ScheduleKind, StepReport, World, pipeline,
};
use tch::nn::{self, Linear};
use tch::{Device, Kind, Tensor};

#[allow(dead_code)]
#[path = "../../tests/processes/launch.rs"]
mod launch;

use launch::{Launched, Launcher, Mpich, Ulfm};

const GPU0: Device = Device::Cuda(0);
const GPU1: Device = Device::Cuda(1);

#[pipeline(chunks = 3, allow(short_skip))]
struct Net {
    #[device("cpu")]
    #[stash(far = output, near = input)]
    first: Linear,
    #[device("cpu")]
    #[pop(near)]
    merge_near: Merge,
    second: Linear,
    #[device("cpu")]
    third: Linear,
    #[device("cpu")]
    #[pop(far)]
    merge_far: Merge,
    last: Linear,
}

struct Merge;

impl Layer<(Tensor, Tensor)> for Merge {
    type Out = Tensor;

    fn run(&self, (x, skip): (Tensor, Tensor), _cx: &Context) -> Tensor {
        // What crosses is neither contiguous nor of one kind of layout.
        (x.tanh() + skip).transpose(0, 1).contiguous().transpose(0, 1)
    }
}

/// What the processes of a launch have written of their calls of NCCL.
struct Calls(String);

impl Calls {
    fn count(&self, call: &str) -> usize {
        self.0.lines().filter(|line| line.starts_with(call)).count()
    }

    /// Fails unless all calls keep NCCL's rules and everything that was sent was received.
    fn check(&self) {
        let broken: Vec<_> = self.0.lines().filter(|line| line.starts_with("broken")).collect();
        assert!(broken.is_empty(), "{broken:?}");
        assert_eq!(self.count("send"), self.count("receive"));
        assert_eq!(self.count("join"), self.count("abort"), "each communicator is freed");
    }
}

/// Which NCCL the processes have.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Nccl {
    Off,
    Fake,
    /// The fake one, where all processes have the same device.
    OneDevice,
    /// The fake one, but not on process 3.
    NotOnOne,
    /// The fake one, where a call fails.
    Fault(&'static str),
}

/// Runs `body` in this many processes of the test `name`.
fn run(mpi: Launcher, nccl: Nccl, processes: usize, name: &str, body: impl FnOnce()) -> (Launched, Calls) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("calls");
    let mut paths = vec![("FAKE_NCCL_LOG", file.as_path()), ("TMPDIR", folder.path())];
    paths.push(("PIPE_NCCL", if nccl == Nccl::Off { Path::new("off") } else { Path::new(FAKE_NCCL) }));
    paths.extend(match nccl {
        Nccl::OneDevice => Some(("FAKE_NCCL_ONE_GPU", Path::new("1"))),
        Nccl::Fault(fault) => Some(("FAKE_NCCL_FAULT", Path::new(fault))),
        _ => None,
    });
    let own = std::env::current_exe().unwrap();
    paths.push(("PIPE_TEST_PROGRAM", &own));
    let script = folder.path().join("without-on-one");
    fs::write(
        &script,
        "#!/bin/sh\n[ \"$OMPI_COMM_WORLD_RANK\" = 3 ] && export PIPE_NCCL=off\nexec \"$PIPE_TEST_PROGRAM\" \"$@\"\n",
    )
    .unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).unwrap();
    let program = (nccl == Nccl::NotOnOne).then_some(script.as_path());
    let launched = launch::launch_with(mpi, processes, &paths, program, name, body);
    (launched, Calls(fs::read_to_string(&file).unwrap_or_default()))
}

/// A stage on the first accelerator of each of two processes.
fn one_each() -> (World, Devices) {
    let world = World::init().unwrap();
    tch::set_num_threads(1);
    let devices = Devices::new([GPU0; 2]).across(&world).unwrap();
    (world, devices)
}

fn build(devices: &Devices, mode: Checkpoint, kind: ScheduleKind) -> pipe_runtime::Result<(Pipe<Net>, NetVars)> {
    build_with(devices, mode, kind, false)
}

/// Builds the pipeline. What its graphs keep stays, or is made again and moved to the host.
fn build_with(
    devices: &Devices,
    mode: Checkpoint,
    kind: ScheduleKind,
    moves: bool,
) -> pipe_runtime::Result<(Pipe<Net>, NetVars)> {
    let vars = Net::vars(devices)?;
    let linear = |path: nn::Path<'_>| nn::linear(path, 6, 6, Default::default());
    let net = Net {
        first: linear(vars.first()),
        merge_near: Merge,
        second: linear(vars.second()),
        third: linear(vars.third()),
        merge_far: Merge,
        last: linear(vars.last()),
    };
    draw(vars.var_store(), 2, |name| vars.is_here(name));
    let builder = net.pipe(&vars).checkpoint(mode).schedule(kind).intra_op_threads(1);
    let builder = match moves {
        true => builder.cheap_outputs(CheapOutputs::RecomputePointwise).offload(Offload::at_least(1)),
        false => builder,
    };
    Ok((builder.build()?, vars))
}

fn rows(count: i64) -> Tensor {
    tch::manual_seed(3);
    Tensor::randn([count, 6], (Kind::Float, Device::Cpu))
}

fn squares(output: &Tensor, target: &Tensor) -> Tensor {
    (output - target).square().mean(Kind::Float)
}

fn step(pipe: &mut Pipe<Net>, [first, last]: [Device; 2], rows: &Tensor) -> pipe_runtime::Result<StepReport<Tensor>> {
    pipe.step().keep_output().run(rows.to_device(first), (rows * 2.).to_device(last), squares)
}

/// The loss, the output and the gradients that are here, by their names.
fn results(report: &StepReport<Tensor>, vars: &NetVars) -> Vec<(String, Tensor)> {
    let mut named: Vec<_> = vars.var_store().variables().into_iter().filter(|(name, _)| vars.is_here(name)).collect();
    named.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut found: Vec<_> = named.into_iter().map(|(name, variable)| (name, variable.grad())).collect();
    found.push(("the loss".into(), report.loss.shallow_clone()));
    found.push(("the output".into(), report.output.shallow_clone()));
    found.into_iter().map(|(name, tensor)| (name, tensor.to_device(Device::Cpu))).collect()
}

fn assert_close(found: &[(String, Tensor)], expected: &[(String, Tensor)], what: &str) {
    for (name, tensor) in found {
        let (_, expected) = expected.iter().find(|(other, _)| other == name).unwrap();
        assert!(tensor.allclose(expected, 1e-5, 1e-6, false), "{what}: {name}: {tensor:?} instead of {expected:?}");
    }
}

/// Runs two steps over the processes, under each schedule that can run, and compares them with
/// those of the CPU.
fn trains_as_on_the_cpu(world: &World, places: &[Device]) -> usize {
    let mut runs = 0;
    let modes = [(Checkpoint::Always, false), (Checkpoint::Never, false), (Checkpoint::Never, true)];
    for (mode, moves) in modes {
        for kind in ScheduleKind::ALL {
            let what = format!("{places:?}, {mode}, {kind}, moved to the host: {moves}");
            let Ok(devices) = Devices::new(places).for_schedule(kind, None).across(world) else { continue };
            let from = log(0).len();
            // Building fails if these stages cannot run the schedule.
            let Ok((mut pipe, vars)) = build_with(&devices, mode, kind, moves) else { continue };
            let (mut alone, its_vars) = build(&Devices::cpu(4), mode, ScheduleKind::GPipe).unwrap();
            for count in [7, 4] {
                let report = step(&mut pipe, [places[0], places[places.len() - 1]], &rows(count)).unwrap();
                let expected = step(&mut alone, [Device::Cpu; 2], &rows(count)).unwrap();
                assert_close(&results(&report, &vars), &results(&expected, &its_vars), &what);
            }
            drop(pipe);
            let found = violations(&log(from));
            assert!(found.is_empty(), "{what}: {:#?}", found.iter().take(5).collect::<Vec<_>>());
            runs += 1;
        }
    }
    runs
}

#[test]
fn accelerators_of_two_processes_train_as_on_the_cpu_and_in_order() {
    const NAME: &str = "accelerators_of_two_processes_train_as_on_the_cpu_and_in_order";
    if is_skipped() {
        return;
    }
    for (mpi, nccl) in [(Ulfm, Nccl::Fake), (Mpich, Nccl::Fake), (Ulfm, Nccl::Off), (Ulfm, Nccl::OneDevice)] {
        let (launched, calls) = run(mpi, nccl, 2, NAME, || {
            let world = World::init().unwrap();
            tch::set_num_threads(1);
            let places: [&[Device]; 4] =
                [&[GPU0; 2], &[GPU0, GPU0, GPU1, GPU1], &[GPU0, GPU1, GPU1, GPU0], &[GPU0, Device::Cpu, GPU1, GPU1]];
            let runs: Vec<_> = places.iter().map(|places| trains_as_on_the_cpu(&world, places)).collect();
            assert!(runs.iter().all(|&runs| runs > 0) && runs.iter().sum::<usize>() >= 20, "{runs:?}");
        });
        launched.check(2);
        calls.check();
        // Some values and gradients of each of at least ten runs go straight.
        match nccl {
            Nccl::Fake => assert!(calls.count("send") > 10 * 2 * 2 * 3, "{}", calls.count("send")),
            _ => assert_eq!(calls.0, ""),
        }
    }
}

#[test]
fn no_thread_waits_for_an_accelerator_that_sends_or_receives() {
    const NAME: &str = "no_thread_waits_for_an_accelerator_that_sends_or_receives";
    if is_skipped() {
        return;
    }
    let (launched, calls) = run(Ulfm, Nccl::Fake, 2, NAME, || {
        let (world, devices) = one_each();
        let (mut pipe, _vars) = build(&devices, Checkpoint::Never, ScheduleKind::OneFOneB).unwrap();
        let (x, y) = (rows(6).to_device(GPU0), rows(6).to_device(GPU0));
        let waits = |from| log(from).into_iter().filter(|entry| entry.kind.is_host_wait()).count();
        pipe.train_step(&x, &y, squares).unwrap();
        let from = log(0).len();
        pipe.train_step(&x, &y, squares).unwrap();
        // Where the losses are: whether all are finite, then their numbers, for the other one.
        let expected = if world.is_first() { 0 } else { 1 + 3 };
        assert_eq!(waits(from), expected);
    });
    launched.check(2);
    calls.check();
}

#[test]
fn replicas_sum_their_gradients_from_accelerator_to_accelerator() {
    const NAME: &str = "replicas_sum_their_gradients_from_accelerator_to_accelerator";
    if is_skipped() {
        return;
    }
    for nccl in [Nccl::Fake, Nccl::Off, Nccl::NotOnOne] {
        let (launched, calls) = run(Ulfm, nccl, 4, NAME, || {
            let world = World::init().unwrap().replicas(2).unwrap();
            tch::set_num_threads(1);
            let devices = Devices::new([GPU0; 2]).across(&world).unwrap();
            let from = log(0).len();
            let (mut pipe, vars) = build(&devices, Checkpoint::Never, ScheduleKind::OneFOneB).unwrap();
            let all = rows(12);
            let own = all.narrow(0, 6 * world.replica() as i64, 6);
            let report = step(&mut pipe, [GPU0; 2], &own).unwrap();
            let (mut alone, its_vars) = build(&Devices::cpu(4), Checkpoint::Never, ScheduleKind::GPipe).unwrap();
            let expected = step(&mut alone, [Device::Cpu; 2], &all).unwrap();
            let expected = results(&expected, &its_vars);
            let found = results(&report, &vars).into_iter().filter(|(name, _)| name != "the output");
            assert_close(&found.collect::<Vec<_>>(), &expected, "replicas");
            drop(pipe);
            let found = violations(&log(from));
            assert!(found.is_empty(), "{:#?}", found.iter().take(5).collect::<Vec<_>>());
        });
        launched.check(4);
        calls.check();
        // Each replica has two connections, and the two halves of the model have two each.
        let connections = match nccl {
            Nccl::Fake => 8,
            // The second replica's processes, and the last processes of both.
            Nccl::NotOnOne => 8 - 4,
            _ => 0,
        };
        assert_eq!(calls.count("join"), 2 * connections, "{nccl:?}");
    }
}

#[test]
fn a_killed_process_ends_what_the_accelerators_of_others_wait_for() {
    const NAME: &str = "a_killed_process_ends_what_the_accelerators_of_others_wait_for";
    if is_skipped() {
        return;
    }
    let (launched, calls) = run(Ulfm, Nccl::Fake, 2, NAME, || {
        let (world, devices) = one_each();
        let (mut pipe, _vars) = build(&devices, Checkpoint::Never, ScheduleKind::OneFOneB).unwrap();
        step(&mut pipe, [GPU0; 2], &rows(6)).unwrap();
        if !world.is_first() {
            let loss = |_: &Tensor, _: &Tensor| -> Tensor {
                std::process::Command::new("kill").args(["-9", &std::process::id().to_string()]).status().unwrap();
                unreachable!("it is dead")
            };
            let _ = pipe.step().keep_output().run(rows(6).to_device(GPU0), rows(6).to_device(GPU0), loss);
        }
        let start = Instant::now();
        let error = step(&mut pipe, [GPU0; 2], &rows(6)).unwrap_err();
        assert!(matches!(error, Error::Connection(_)), "{error}");
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        // The connections are aborted, although the pipeline still exists.
        std::thread::sleep(Duration::from_millis(500));
        let log = fs::read_to_string(std::env::var("FAKE_NCCL_LOG").unwrap()).unwrap();
        assert_eq!(log.lines().filter(|line| *line == "abort").count(), 2, "{log}");
        assert!(step(&mut pipe, [GPU0; 2], &rows(6)).is_err());
    });
    launched.check(1);
    assert_eq!(calls.count("broken"), 0, "{}", calls.0);
}

#[test]
fn a_layer_that_fails_while_accelerators_send_leaves_the_next_step_whole() {
    const NAME: &str = "a_layer_that_fails_while_accelerators_send_leaves_the_next_step_whole";
    if is_skipped() {
        return;
    }
    let (launched, calls) = run(Ulfm, Nccl::Fake, 2, NAME, || {
        let (_world, devices) = one_each();
        for kind in [ScheduleKind::GPipe, ScheduleKind::OneFOneB, ScheduleKind::ZbH1] {
            let (mut pipe, vars) = build(&devices, Checkpoint::Never, kind).unwrap();
            let (mut fresh, its_vars) = build(&devices, Checkpoint::Never, kind).unwrap();
            for micro_batch in 0..3 {
                let mut count = 0;
                let loss = |output: &Tensor, target: &Tensor| {
                    count += 1;
                    assert!(count != micro_batch + 1, "told to fail");
                    squares(output, target)
                };
                let error = pipe.train_step(rows(6).to_device(GPU0), rows(6).to_device(GPU0), loss).unwrap_err();
                assert!(matches!(&error, Error::Failed(failure) if failure.cause.contains("told to fail")), "{error}");
            }
            let (found, expected) = [&mut pipe, &mut fresh].map(|pipe| step(pipe, [GPU0; 2], &rows(6)).unwrap()).into();
            assert_close(&results(&found, &vars), &results(&expected, &its_vars), "after the failures");
        }
    });
    launched.check(2);
    calls.check();
}

#[test]
fn what_fails_in_nccl_is_an_error_on_both_sides_and_never_a_hang() {
    const NAME: &str = "what_fails_in_nccl_is_an_error_on_both_sides_and_never_a_hang";
    if is_skipped() {
        return;
    }
    // The first send of a process tries out a connection.
    for fault in
        ["init:0:0", "init:1:1", "send:0:0", "kill-init:1:0", "kill-send:0:0", "send:1:2", "send:0:3", "kill-send:1:3"]
    {
        let start = Instant::now();
        let (launched, calls) = run(Ulfm, Nccl::Fault(fault), 2, NAME, || {
            let (_world, devices) = one_each();
            let trained = build(&devices, Checkpoint::Never, ScheduleKind::OneFOneB).and_then(|(mut pipe, _vars)| {
                let trained = step(&mut pipe, [GPU0; 2], &rows(6));
                // It stays an error.
                assert!(trained.is_ok() || step(&mut pipe, [GPU0; 2], &rows(6)).is_err());
                trained.map(drop)
            });
            let error = trained.expect_err("a call of NCCL has failed");
            let expected = matches!(error, Error::Connection(_)) || error.to_string().contains("ncclSend failed");
            assert!(expected, "{error}");
        });
        launched.check(if fault.starts_with("kill") { 1 } else { 2 });
        assert_eq!(calls.count("broken"), 0, "{fault}: {}", calls.0);
        assert!(start.elapsed() < Duration::from_secs(20), "{fault}: {:?}", start.elapsed());
    }
}

#[test]
fn other_devices_on_another_process_are_an_error_of_build() {
    const NAME: &str = "other_devices_on_another_process_are_an_error_of_build";
    if is_skipped() {
        return;
    }
    let (launched, _) = run(Ulfm, Nccl::Fake, 2, NAME, || {
        let world = World::init().unwrap();
        let places = if world.is_first() { [GPU0, GPU0] } else { [GPU0, GPU1] };
        let devices = Devices::new(places).across(&world).unwrap();
        let error = build(&devices, Checkpoint::Never, ScheduleKind::GPipe).map(drop).unwrap_err().to_string();
        assert!(error.contains("have built different pipelines: the devices"), "{error}");
    });
    launched.check(2);
}
