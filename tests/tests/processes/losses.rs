//! A process that is lost is an error of all others, and never a hang.

use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use pipe_runtime::{Context, Devices, Error, Layer, Pipe, Result, ScheduleKind, World, pipeline};
use pipe_tests::layers::linear;
use tch::nn::Linear;
use tch::{Device, Kind, Tensor};

use crate::launch::{LIMIT, Mpich, Ulfm, launch};

/// Ends or freezes its process in its pass of this number, or takes long.
struct Doomed;

static PASSES_LEFT: AtomicUsize = AtomicUsize::new(usize::MAX);
static SIGNAL: AtomicUsize = AtomicUsize::new(0);

impl Layer<Tensor> for Doomed {
    type Out = Tensor;

    fn run(&self, x: Tensor, _cx: &Context) -> Tensor {
        if PASSES_LEFT.fetch_sub(1, Ordering::Relaxed) == 1 {
            println!("lost at {}", now());
            if SIGNAL.load(Ordering::Relaxed) == 2 {
                std::thread::sleep(Duration::from_secs(3));
                return x;
            }
            let signal = if SIGNAL.load(Ordering::Relaxed) == 0 { "-KILL" } else { "-STOP" };
            Command::new("kill").args([signal, &std::process::id().to_string()]).status().unwrap();
        }
        x
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

#[pipeline(chunks = 4, checkpoint = never)]
struct Three {
    #[device("cpu")]
    first: Linear,
    doomed_first: Doomed,
    #[device("cpu")]
    middle: Linear,
    doomed_middle: Doomed,
    #[device("cpu")]
    last: Linear,
    doomed_last: Doomed,
}

fn build(world: &World) -> Pipe<Three> {
    let vars = Three::vars(&Devices::cpu(3).across(world).unwrap()).unwrap();
    let model = Three {
        first: linear(vars.first(), 8, 8),
        doomed_first: Doomed,
        middle: linear(vars.middle(), 8, 8),
        doomed_middle: Doomed,
        last: linear(vars.last(), 8, 8),
        doomed_last: Doomed,
    };
    model.pipe(&vars).schedule(ScheduleKind::OneFOneB).intra_op_threads(1).build().unwrap()
}

fn step(pipe: &mut Pipe<Three>) -> Result<()> {
    let x = Tensor::ones([8, 8], (Kind::Float, Device::Cpu));
    pipe.train_step(&x, &x, |output, x: &Tensor| output.mse_loss(x, tch::Reduction::Mean)).map(drop)
}

/// Trains until a process is lost. The others print when they know it.
fn train(lost: usize, passes: usize, signal: usize, deadline: Duration) {
    let world = World::init().unwrap().deadline(deadline);
    tch::set_num_threads(1);
    SIGNAL.store(signal, Ordering::Relaxed);
    let mut pipe = build(&world);
    step(&mut pipe).unwrap();
    if world.process() == lost {
        PASSES_LEFT.store(passes, Ordering::Relaxed);
    }
    let start = Instant::now();
    let error = loop {
        assert!(start.elapsed() < Duration::from_secs(20), "no process was lost");
        if let Err(error) = step(&mut pipe) {
            break error;
        }
    };
    assert!(matches!(error, Error::Connection(_)), "{error:?}");
    println!("known at {}", now());
    // From now on, the pipeline says why it cannot be used.
    let again = step(&mut pipe).unwrap_err().to_string();
    assert!(again.contains("an earlier call lost the connection"), "{again}");
}

/// The seconds after which the other processes knew of the loss.
fn delays(output: &str) -> Vec<f64> {
    let times = |what: &str| -> Vec<f64> {
        output.lines().filter_map(|line| line.split(what).nth(1)?.trim().parse().ok()).collect()
    };
    let lost = times("lost at ");
    assert_eq!(lost.len(), 1, "one process was lost:\n{output}");
    times("known at ").into_iter().map(|time| time - lost[0]).collect()
}

#[test]
fn a_process_that_is_killed_is_an_error_of_the_others_within_a_second() {
    const NAME: &str = "losses::a_process_that_is_killed_is_an_error_of_the_others_within_a_second";
    for (round, lost) in [0, 1, 2, 0, 1, 2].into_iter().enumerate() {
        let launched = launch(Ulfm, 3, NAME, &[lost, 1 + round * 7], LIMIT, |numbers| {
            train(numbers[0], numbers[1], 0, Duration::from_secs(60));
        });
        let delays = delays(&launched.output);
        assert_eq!(delays.len(), 2, "both others know:\n{}", launched.output);
        assert!(delays.iter().all(|&delay| delay < 1.), "{delays:?}");
    }
}

#[test]
fn a_process_that_is_frozen_is_an_error_of_the_others_after_the_deadline() {
    const NAME: &str = "losses::a_process_that_is_frozen_is_an_error_of_the_others_after_the_deadline";
    // The launcher waits for the frozen process, too.
    let launched = launch(Ulfm, 3, NAME, &[1, 6], 8, |numbers| {
        train(numbers[0], numbers[1], 1, Duration::from_secs(2));
    });
    let delays = delays(&launched.output);
    assert_eq!(delays.len(), 2, "both others know:\n{}", launched.output);
    assert!(delays.iter().all(|&delay| (1.5..3.).contains(&delay)), "{delays:?}");
}

/// A process whose layer takes longer than the deadline still gives signs.
#[test]
fn a_layer_that_takes_long_is_not_taken_for_a_lost_process() {
    const NAME: &str = "losses::a_layer_that_takes_long_is_not_taken_for_a_lost_process";
    let launched = launch(Ulfm, 3, NAME, &[], LIMIT, |_| {
        let world = World::init().unwrap().deadline(Duration::from_secs(1));
        tch::set_num_threads(1);
        SIGNAL.store(2, Ordering::Relaxed);
        let mut pipe = build(&world);
        if world.process() == 1 {
            PASSES_LEFT.store(3, Ordering::Relaxed);
        }
        for _ in 0..3 {
            step(&mut pipe).unwrap();
        }
    });
    launched.check(3);
    assert!(launched.output.contains("lost at"), "{}", launched.output);
}

/// Other launchers end all processes, and nothing goes on.
#[test]
fn without_errors_about_losses_the_launcher_ends_all_processes() {
    const NAME: &str = "losses::without_errors_about_losses_the_launcher_ends_all_processes";
    let start = Instant::now();
    let launched = launch(Mpich, 3, NAME, &[1, 6], LIMIT, |numbers| {
        train(numbers[0], numbers[1], 0, Duration::from_secs(60));
    });
    assert!(!launched.status.success());
    assert_eq!(delays(&launched.output), [0.; 0], "nobody lives on:\n{}", launched.output);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}
