//! What two replicas cost: the sum of 64 MiB of gradients beside MPI's own all-reduce, and an
//! agreement of all processes.
//!
//! `cargo bench -p pipe-runtime --bench replicas` starts two processes, in turns with a C program.
//! It needs a C compiler.

#[path = "../comm/tests/processes/launch.rs"]
#[allow(dead_code)]
mod launch;

use std::env;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use launch::{Launcher, Mpich, Ulfm};
use pipe_runtime::{Devices, Pipe, World, pipeline};
use tch::nn::{self, Linear};
use tch::{Device, Kind, Tensor};

/// The width of the layer, whose weight has 64 MiB.
const WIDTH: i64 = 4096;

const ROUNDS: usize = 15;

/// How often both programs are started. The least median counts.
const TURNS: usize = 3;

#[pipeline(allow(single_stage))]
struct Wide {
    #[device("cpu")]
    layer: Linear,
}

fn main() {
    if env::var_os("PIPE_REPLICAS_BENCH").is_some() {
        return measure();
    }
    let own = env::current_exe().expect("this program has a path");
    println!("| MPI | step alone | with a replica | the sum | MPI_Allreduce | ratio | agreement |");
    println!("|---|---|---|---|---|---|---|");
    for mpi in [Ulfm, Mpich] {
        let bare = compile(mpi);
        let (mut times, mut reduce) = ([f64::INFINITY; 3], f64::INFINITY);
        for _ in 0..TURNS {
            let found = run(mpi, &own, &[]);
            times.iter_mut().zip(found).for_each(|(best, time)| *best = time.min(*best));
            let floats = (WIDTH * WIDTH).to_string();
            reduce = run(mpi, &bare, &[&floats, &ROUNDS.to_string()])[0].min(reduce);
        }
        let [alone, replica, agreement] = times;
        println!(
            "| {mpi:?} | {} | {} | {} | {} | {:.2} | {} |",
            show(alone),
            show(replica),
            show(replica - alone),
            show(reduce),
            (replica - alone) / reduce,
            show(agreement),
        );
    }
}

fn compile(mpi: Launcher) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/replicas/allreduce.c");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("allreduce_{mpi:?}"));
    let home = mpi.home();
    let mut command = std::process::Command::new(home.join("bin/mpicc"));
    command.arg(format!("-Wl,-rpath,{}", home.join("lib").display()));
    command.args(["-O2", "-o"]).arg(&program).arg(source);
    let status = command.status().expect("`mpicc` can be started");
    assert!(status.success(), "{command:?}: {status}");
    program
}

/// Runs a program in two processes. Returns the numbers that it prints last.
fn run(mpi: Launcher, program: &Path, args: &[&str]) -> Vec<f64> {
    let mut command = mpi.command(2, 120, program);
    command.args(args).env("PIPE_REPLICAS_BENCH", "1").stderr(Stdio::inherit());
    let output = command.output().expect("`timeout` can be started");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{mpi:?}: {}: {text}", output.status);
    let last = text.lines().last().expect("it prints numbers");
    last.split(' ').map(|number| number.parse().expect("it prints numbers")).collect()
}

/// Measures in one of the two processes.
fn measure() {
    pipe_runtime::keep_freed_memory();
    tch::set_num_threads(1);
    let world = World::init().and_then(|world| world.replicas(2)).expect("there are two processes");
    let mut alone = build(&Devices::cpu(1));
    let mut replica = build(&Devices::cpu(1).across(&world).expect("there is a stage"));
    let x = Tensor::ones([1, WIDTH], (Kind::Float, Device::Cpu));
    let step = |pipe: &mut Pipe<Wide>| {
        // Both begin together.
        let _ = world.all_gather(b"").expect("the other process lives");
        let start = Instant::now();
        pipe.train_step(&x, &x, |y, x: &Tensor| y.mse_loss(x, tch::Reduction::Mean)).expect("the step succeeds");
        start.elapsed().as_secs_f64()
    };
    let (mut times, mut sums) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS + 2 {
        times.push(step(&mut alone));
        sums.push(step(&mut replica));
    }
    let agreements = (0..2000).map(|_| {
        let start = Instant::now();
        let _ = world.all_gather(b"agreed").expect("the other process lives");
        start.elapsed().as_secs_f64()
    });
    let agreements = agreements.collect();
    if world.is_first() {
        println!("{} {} {}", median(times.split_off(2)), median(sums.split_off(2)), median(agreements));
    }
}

fn build(devices: &Devices) -> Pipe<Wide> {
    tch::manual_seed(1);
    let vars = Wide::vars(devices).expect("there is a CPU");
    let config = nn::LinearConfig { bias: false, ..Default::default() };
    let net = Wide { layer: nn::linear(vars.layer(), WIDTH, WIDTH, config) };
    net.pipe(&vars).intra_op_threads(1).build().expect("it is a pipeline")
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn show(seconds: f64) -> String {
    let micros = seconds * 1e6;
    if micros < 1000. { format!("{micros:.1} µs") } else { format!("{:.1} ms", micros / 1e3) }
}
