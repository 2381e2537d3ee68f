//! A process that is lost is an error of all others, and never a hang.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use pipe_runtime::optim::AdamW;
use pipe_runtime::{Checkpoints, Context, Devices, Error, Layer, Pipe, Result, ScheduleKind, Trainer, World, pipeline};
use pipe_tests::layers::linear;
use tch::nn::Linear;
use tch::{Device, Kind, Tensor};

use crate::launch::{LIMIT, Mpich, Ulfm, launch};

/// Ends, leaves or freezes its process in its pass of this number, or takes long.
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
            if SIGNAL.load(Ordering::Relaxed) == 3 {
                std::process::exit(101);
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
    make(&Devices::cpu(3).across(world).unwrap()).0
}

fn make(devices: &Devices) -> (Pipe<Three>, ThreeVars) {
    tch::manual_seed(1);
    let vars = Three::vars(devices).unwrap();
    let model = Three {
        first: linear(vars.first(), 8, 8),
        doomed_first: Doomed,
        middle: linear(vars.middle(), 8, 8),
        doomed_middle: Doomed,
        last: linear(vars.last(), 8, 8),
        doomed_last: Doomed,
    };
    (model.pipe(&vars).schedule(ScheduleKind::OneFOneB).intra_op_threads(1).build().unwrap(), vars)
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
fn a_process_that_ends_with_an_error_code_is_an_error_of_the_others_within_a_second() {
    const NAME: &str = "losses::a_process_that_ends_with_an_error_code_is_an_error_of_the_others_within_a_second";
    for (round, lost) in [0, 1, 2].into_iter().enumerate() {
        let launched = launch(Ulfm, 3, NAME, &[lost, 2 + round * 5], LIMIT, |numbers| {
            train(numbers[0], numbers[1], 3, Duration::from_secs(60));
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

/// How many trainings are killed. More are for a night: `PIPE_KILLS=200`.
fn kills() -> usize {
    std::env::var("PIPE_KILLS").map_or(10, |text| text.parse().expect("a number"))
}

fn trainer(devices: &Devices) -> (Trainer<Three>, ThreeVars) {
    let (pipe, vars) = make(devices);
    let optimizer = pipe.optimizer(AdamW::default()).clip_norm(1.).build().unwrap();
    (Trainer::new(pipe, optimizer).unwrap(), vars)
}

fn train_a_step(trainer: &mut Trainer<Three>) -> Result<()> {
    let x = Tensor::full([8, 8], trainer.steps() as f64 / 10. - 1., (Kind::Float, Device::Cpu));
    trainer.step(&x, &x, |output, x: &Tensor| output.mse_loss(x, tch::Reduction::Mean)).map(drop)
}

/// Resumes what is in the folder, trains and saves until a process is killed, and then saves what
/// this one has.
fn train_until_killed(folder: &Path, lost: usize, moment: Duration) {
    let world = World::init().unwrap();
    tch::set_num_threads(1);
    let (mut trainer, vars) = trainer(&Devices::cpu(3).across(&world).unwrap());
    let mut checkpoints = Checkpoints::in_folder(folder).keep(2);
    checkpoints.resume(&mut trainer).unwrap();
    if world.process() == lost {
        std::thread::spawn(move || {
            std::thread::sleep(moment);
            println!("lost at {}", now());
            Command::new("kill").args(["-KILL", &std::process::id().to_string()]).status().unwrap();
        });
    }
    let mut train = || -> Result<()> {
        loop {
            train_a_step(&mut trainer)?;
            match trainer.steps() % 2 {
                0 => checkpoints.save_in_background(&trainer)?,
                _ => drop(checkpoints.save(&trainer)?),
            }
        }
    };
    let error = train().unwrap_err();
    println!("known at {}", now());
    assert!(matches!(error, Error::Connection(_)), "{error:?}");
    vars.save_part(folder.join(format!("part-{}.safetensors", world.process()))).unwrap();
    // A save in the background that was under way ends, whatever became of it, and is forgotten.
    let _ = checkpoints.finish();
    assert!(checkpoints.finish().unwrap().is_none());
}

/// Each training resumes what the one before has left. The last one, in one process, ends as one
/// that nobody has killed.
#[test]
fn trainings_that_are_killed_again_and_again_end_as_one_that_is_not() {
    const NAME: &str = "losses::trainings_that_are_killed_again_and_again_end_as_one_that_is_not";
    let this = std::process::id() as usize;
    let folder = |starter: usize| std::env::temp_dir().join(format!("pipe-killed-{starter}"));
    std::fs::create_dir_all(folder(this)).unwrap();
    let mut steps = 0;
    for kill in 0..kills() {
        let lost = kill % 3;
        let launched = launch(Ulfm, 3, NAME, &[lost, kill * 79_190 % 400_000, this], LIMIT, |numbers| {
            train_until_killed(&folder(numbers[2]), numbers[0], Duration::from_micros(numbers[1] as u64));
        });
        let folder = folder(this);
        let delays = delays(&launched.output);
        assert_eq!(delays.len(), 2, "both others know:\n{}", launched.output);
        assert!(delays.iter().all(|&delay| delay < 1.), "{delays:?}");
        let (mut found, vars) = trainer(&Devices::cpu(3));
        Checkpoints::in_folder(&folder).resume(&mut found).unwrap();
        assert!(found.steps() >= steps, "a checkpoint was lost");
        steps = found.steps();
        for process in (0..3).filter(|process| *process != lost) {
            let part = folder.join(format!("part-{process}.safetensors"));
            let error = vars.load(&part).unwrap_err().to_string();
            assert!(error.contains(&format!("those of process {process} of 3: read it with")), "{error}");
            assert_eq!(vars.loader(&part).partial().load().unwrap().loaded.len(), 2);
        }
    }
    assert!(steps > 0, "some training has saved");
    let folder = folder(this);

    let ((mut resumed, found), (mut whole, expected)) = (trainer(&Devices::cpu(3)), trainer(&Devices::cpu(3)));
    assert!(Checkpoints::in_folder(&folder).resume(&mut resumed).unwrap());
    while whole.steps() < steps + 2 {
        train_a_step(&mut whole).unwrap();
    }
    while resumed.steps() < steps + 2 {
        train_a_step(&mut resumed).unwrap();
    }
    let pairs = found.select("*").unwrap().into_iter().zip(expected.select("*").unwrap());
    assert!(pairs.into_iter().all(|((_, found), (_, expected))| found.equal(&expected)));
    std::fs::remove_dir_all(folder).unwrap();
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
