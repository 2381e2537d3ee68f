//! A trace over several processes has the steps of all of them, by one clock.

use std::time::Duration;

use pipe_runtime::balance::Balance;
use pipe_runtime::schedule::{Action, ActionKind};
use pipe_runtime::{Context, Devices, Layer, MessagePrice, Pipe, Result, ScheduleKind, World, pipeline};
use pipe_tests::layers::{Merge, linear};
use tch::nn::Linear;
use tch::{Device, Kind, Tensor};

use crate::launch::{BOTH, LIMIT, in_processes, launch};

/// What the clocks of two processes may differ by, in seconds. One is idle for longer than that.
const CLOCKS: f64 = 1e-3;

/// What [`Slow`] sleeps, in seconds.
const SLOW: f64 = 3e-3;

/// The least time from the start of a step to what it sends.
fn least(action: Action) -> f64 {
    if (action.kind, action.stage) == (ActionKind::Forward, 1) { SLOW } else { 0. }
}

/// Sleeps in its forward, and fails for large numbers.
struct Slow;

impl Layer<Tensor> for Slow {
    type Out = Tensor;

    fn run(&self, x: Tensor, _cx: &Context) -> Tensor {
        std::thread::sleep(Duration::from_secs_f64(SLOW));
        assert!(f64::try_from(x.max()).unwrap() < 1e6, "told to fail");
        x
    }
}

#[pipeline(chunks = 4, checkpoint = never)]
struct Net {
    #[device("cpu")]
    #[stash(early = output)]
    first: Linear,
    #[device("cpu")]
    second: Linear,
    slow: Slow,
    #[device("cpu")]
    #[pop(early)]
    merge: Merge,
    last: Linear,
}

/// The processes of its stages are those of the file.
#[pipeline(balance = "balance/processes.toml", chunks = 2)]
struct Measured {
    first: Linear,
    second: Linear,
    last: Linear,
}

fn build(world: &World, kind: ScheduleKind) -> Pipe<Net> {
    let vars = Net::vars(&Devices::cpu(3).across(world).unwrap()).unwrap();
    let net = Net {
        first: linear(vars.first(), 8, 8),
        second: linear(vars.second(), 8, 8),
        slow: Slow,
        merge: Merge,
        last: linear(vars.last(), 8, 8),
    };
    net.pipe(&vars).schedule(kind).intra_op_threads(1).build().unwrap()
}

fn step(pipe: &mut Pipe<Net>, x: f64) -> Result<()> {
    let x = Tensor::full([8, 8], x, (Kind::Float, Device::Cpu));
    pipe.train_step(&x, &x, |output, x: &Tensor| output.mse_loss(x, tch::Reduction::Mean)).map(drop)
}

#[test]
fn a_trace_has_every_action_of_all_processes_once_and_in_order() {
    const NAME: &str = "traces::a_trace_has_every_action_of_all_processes_once_and_in_order";
    for (mpi, processes) in [(BOTH[0], 2), (BOTH[1], 3)] {
        in_processes(mpi, processes, NAME, || {
            let world = World::init().unwrap();
            tch::set_num_threads(1);
            for kind in [ScheduleKind::GPipe, ScheduleKind::OneFOneB, ScheduleKind::ZbH1] {
                let mut pipe = build(&world, kind);
                step(&mut pipe, 1.).unwrap();
                pipe.start_trace();
                step(&mut pipe, 1.).unwrap();
                // One that fails is left out, also by those that were done before.
                step(&mut pipe, 1e9).unwrap_err();
                step(&mut pipe, 2.).unwrap();
                let trace = pipe.stop_trace().unwrap();
                assert_eq!(trace.runs().len(), 2);
                for run in trace.runs() {
                    let actions: usize = run.schedule.ranks.iter().map(Vec::len).sum();
                    assert_eq!(run.steps.len(), actions, "{kind}");
                    let order = run.schedule.order().unwrap();
                    let times = |action| run.steps.iter().find(|step| step.action == action).unwrap();
                    for step in &order.steps {
                        for &earlier in &step.after {
                            let (before, after) = (times(order.steps[earlier].action), times(step.action));
                            // A step ends when it has sent what other processes wait for.
                            let sent = match before.rank == after.rank {
                                true => before.end,
                                false => before.start + least(before.action),
                            };
                            assert!(sent <= after.start + CLOCKS, "{kind}: {before:?} {after:?}");
                        }
                    }
                    assert!(run.threads() >= world.size(), "{} threads", run.threads());
                }
                let costs = trace.costs();
                assert!(costs.stages[1].forward >= SLOW, "{costs:?}");
                // With two processes, the first one has two stages.
                let times: Vec<_> = costs.boundaries.iter().map(|boundary| boundary.time > 0.).collect();
                assert_eq!(times, [world.size() == 3, true], "{costs:?}");
                assert!(costs.skips[0].transfer.time > 0. && costs.skips[0].transfer.time < 1e-2, "{costs:?}");
                assert_eq!(costs.boundaries[1].size, 64.);
                // What every stage holds was measured in its process, and all know it.
                assert!(costs.stages.iter().skip(1).all(|stage| stage.activation > 0.), "{costs:?}");
                let sizes = costs.stages.iter().map(|stage| {
                    [
                        stage.activation,
                        stage.for_weights,
                        stage.checkpoint,
                        stage.forward_working,
                        stage.backward_working,
                        stage.input_working,
                    ]
                });
                let sizes = format!("{:?}", sizes.collect::<Vec<_>>());
                let all = world.all_gather(sizes.as_bytes()).unwrap();
                assert!(all.iter().all(|other| other == sizes.as_bytes()), "{sizes} {costs:?}");
                assert!(trace.simulated().unwrap().makespan >= 4. * costs.stages[1].forward);
                assert!(pipe.advise(&costs, None).unwrap().best.is_some());
                let chrome = trace.to_chrome();
                let forwards = chrome.matches("\"cat\":\"forward\"").count();
                assert_eq!(forwards, 2 * 3 * 4, "{chrome}");

                // All processes have the same one.
                let text = format!("{:?}", trace.runs().iter().map(|run| run.timeline()).collect::<Vec<_>>());
                let all = world.all_gather(text.as_bytes()).unwrap();
                let same = |other: &Vec<u8>| other.len().abs_diff(text.len()) < text.len() / 4;
                assert!(all.iter().all(same), "{text}");
                let count = |kind: ActionKind| trace.runs()[0].schedule.actions().filter(|a| a.kind == kind).count();
                assert_eq!(count(ActionKind::Forward), 12);
            }
        });
    }
}

#[test]
fn a_trace_that_one_process_has_not_started_is_an_error_everywhere() {
    const NAME: &str = "traces::a_trace_that_one_process_has_not_started_is_an_error_everywhere";
    in_processes(BOTH[0], 2, NAME, || {
        let world = World::init().unwrap();
        tch::set_num_threads(1);
        let mut pipe = build(&world, ScheduleKind::OneFOneB);
        if world.is_first() {
            pipe.start_trace();
        }
        step(&mut pipe, 1.).unwrap();
        let error = pipe.stop_trace().unwrap_err().to_string();
        assert_eq!(error, "there is no trace to stop: call `start_trace` first");
        step(&mut pipe, 1.).unwrap();
    });
}

#[test]
fn a_balance_file_says_which_process_a_stage_is_in() {
    const NAME: &str = "traces::a_balance_file_says_which_process_a_stage_is_in";
    in_processes(BOTH[0], 2, NAME, || {
        let world = World::init().unwrap();
        // On fewer devices, the costs say which stages are merged: evenly, the first two would be.
        for devices in [Measured::devices(), Devices::cpu(2)] {
            let vars = Measured::vars(&devices.across(&world).unwrap()).unwrap();
            let net = Measured {
                first: linear(vars.first(), 8, 8),
                second: linear(vars.second(), 8, 8),
                last: linear(vars.last(), 8, 8),
            };
            let is_here = ["first.weight", "second.weight", "last.weight"].map(|name| vars.is_here(name));
            assert_eq!(is_here, [world.is_first(), !world.is_first(), !world.is_first()]);
            let x = Tensor::ones([4, 8], (Kind::Float, Device::Cpu));
            let refused = Balance::of(&net, &vars).by_size(&x).unwrap_err().to_string();
            assert!(refused.contains("make them without `across`"), "{refused}");
            let mut pipe = net.pipe(&vars).intra_op_threads(1).build().unwrap();
            pipe.train_step(&x, &x, |output, x: &Tensor| output.mse_loss(x, tch::Reduction::Mean)).unwrap();
        }
    });
}

#[test]
fn all_processes_learn_the_same_price_of_a_message() {
    const NAME: &str = "traces::all_processes_learn_the_same_price_of_a_message";
    for (mpi, processes, replicas) in [(BOTH[0], 2, 1), (BOTH[1], 3, 1), (BOTH[0], 4, 2)] {
        let launched = launch(mpi, processes, NAME, &[replicas], LIMIT, |replicas| {
            let world = World::init().unwrap().replicas(replicas[0]).unwrap();
            let price = world.message_price().unwrap();
            // A message takes less than a second, and 1 MiB longer than 4 KiB.
            assert!(price.latency < Duration::from_secs(1), "{price:?}");
            assert!(price.seconds_per_byte > 1e-12 && price.seconds_per_byte < 1e-6, "{price:?}");
            let bytes = price.seconds_per_byte.to_le_bytes();
            assert!(world.all_gather(&bytes).unwrap().iter().all(|other| other[..] == bytes));
        });
        launched.check(processes);
    }
    // Alone, there are no messages.
    assert_eq!(World::init().unwrap().message_price().unwrap(), MessagePrice::default());
}
