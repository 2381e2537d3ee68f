//! What the boundary between two stages costs if they are in two processes, beside a C program that
//! calls MPI and nothing else, and beside a copy within a process.
//!
//! `cargo bench -p pipe-runtime --bench boundary` starts two processes, in turns with the C
//! program. It needs a C compiler.

#[path = "../comm/tests/processes/launch.rs"]
#[allow(dead_code)]
mod launch;

use std::env;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use launch::{Launcher, Mpich, Ulfm};
use pipe_runtime::{Context, Devices, Layer, Pipe, Pipeline, ScheduleKind, World, pipeline};
use tch::{Device, Kind, Tensor};

/// The lengths of values in bytes, and how often each is measured.
const SIZES: [(i64, usize); 3] = [(4 << 10, 1000), (1 << 20, 200), (64 << 20, 9)];

/// The length of the value that crosses while both stages compute.
const BESIDE: i64 = 8 << 20;

/// How often both programs are started. The least median counts: what else runs on the machine only
/// adds.
const TURNS: usize = 3;

/// The bars: what a boundary may take beyond C's message, or as a multiple of it.
const BEYOND: f64 = 3e-6;
const MULTIPLE: f64 = 1.15;

/// Hands its input on.
struct Pass;

impl Layer<Tensor> for Pass {
    type Out = Tensor;

    fn run(&self, x: Tensor, _cx: &Context) -> Tensor {
        x
    }
}

/// Hands one row on: the output goes to both processes.
struct Last;

impl Layer<Tensor> for Last {
    type Out = Tensor;

    fn run(&self, x: Tensor, _cx: &Context) -> Tensor {
        x.narrow(0, 0, 1).narrow(1, 0, 1)
    }
}

/// Crosses to the other process once.
#[pipeline(chunks = 1)]
struct Once {
    #[device("cpu", process = 0)]
    first: Pass,
    #[device("cpu", process = 1)]
    last: Last,
}

/// Crosses nine times. Each process has one rank, as in a pipeline of two stages.
#[pipeline(chunks = 2)]
struct Often {
    #[devices("cpu", "cpu", "cpu", "cpu", "cpu", "cpu", "cpu", "cpu", "cpu")]
    first: [Pass; 9],
    #[device("cpu")]
    last: Last,
}

const MORE_CROSSINGS: f64 = 8.;

/// Computes for some milliseconds, and hands a constant of its own on.
struct Compute {
    numbers: Tensor,
    result: Tensor,
}

impl Layer<Tensor> for Compute {
    type Out = Tensor;

    fn run(&self, x: Tensor, _cx: &Context) -> Tensor {
        for _ in 0..4 {
            let _ = self.numbers.matmul(&self.numbers);
        }
        if self.result.numel() == 0 { x } else { self.result.shallow_clone() }
    }
}

/// Two stages that compute, with a value between them.
#[pipeline(chunks = 16)]
struct Busy {
    #[device("cpu", process = 0)]
    first: Compute,
    #[device("cpu", process = 1)]
    second: Compute,
    last: Last,
}

const CHUNKS: usize = 16;

fn main() {
    if env::var_os("PIPE_BOUNDARY_BENCH").is_some() {
        return measure();
    }
    let own = env::current_exe().expect("this program has a path");
    println!("| MPI | value | a stage | a boundary | C | boundary / C | bar | a copy | copy / boundary |");
    println!("|---|---|---|---|---|---|---|---|---|");
    let mut beside = Vec::new();
    for mpi in [Ulfm, Mpich] {
        let bare = compile(mpi);
        let (mut ours, mut theirs) = (vec![f64::INFINITY; 3 * SIZES.len() + 2], vec![f64::INFINITY; SIZES.len() + 1]);
        for _ in 0..TURNS {
            keep_least(&mut ours, run(mpi, &own).concat());
            keep_least(&mut theirs, run(mpi, &bare).into_iter().map(|line| line[0]).collect());
        }
        for (place, (size, _)) in SIZES.into_iter().enumerate() {
            let [whole, stage, copy] = [0, 1, 2].map(|column| ours[3 * place + column]);
            let (boundary, bare) = (whole - stage, theirs[place]);
            let bar = if size < 1 << 16 { bare + BEYOND } else { bare * MULTIPLE };
            println!(
                "| {mpi:?} | {} | {} | {} | {} | {:.2} | {} | {} | {:.2} |",
                bytes(size),
                show(stage),
                show(boundary),
                show(bare),
                boundary / bare,
                if boundary <= bar { "met" } else { "missed" },
                show(copy),
                copy / boundary,
            );
        }
        beside.push((mpi, ours[3 * SIZES.len()], ours[3 * SIZES.len() + 1], theirs[SIZES.len()]));
    }
    println!("\n| MPI | a micro-batch | with {} between its stages | more | C | more / C |", bytes(BESIDE));
    println!("|---|---|---|---|---|---|");
    for (mpi, without, with, bare) in beside {
        let more = with - without;
        println!(
            "| {mpi:?} | {} | {} | {} | {} | {:.2} |",
            show(without),
            show(with),
            show(more),
            show(bare),
            more / bare
        );
    }
}

fn keep_least(least: &mut [f64], found: Vec<f64>) {
    least.iter_mut().zip(found).for_each(|(least, found)| *least = found.min(*least));
}

fn compile(mpi: Launcher) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("comm/benches/ping_pong/bare.c");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("boundary_{mpi:?}"));
    mpi.compile(&source, &program);
    program
}

/// Runs a program in two processes. Returns the lines of numbers that it prints.
fn run(mpi: Launcher, program: &Path) -> Vec<Vec<f64>> {
    let mut command = mpi.command(2, 120, program);
    let sizes = SIZES.map(|(size, rounds)| [size as usize, rounds]).into_iter().chain([[BESIDE as usize, 50]]);
    command.args(sizes.flatten().map(|number| number.to_string()));
    let output = command.env("PIPE_BOUNDARY_BENCH", "1").stderr(Stdio::inherit()).output();
    let output = output.expect("`timeout` can be started");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{mpi:?}: {}: {text}", output.status);
    text.lines().map(|line| line.split(' ').map(|number| number.parse().expect("a number")).collect()).collect()
}

/// Measures in one of the two processes.
fn measure() {
    pipe_runtime::keep_freed_memory();
    tch::set_num_threads(1);
    let world = World::init().expect("there are two processes");
    let once_vars = Once::vars(&Once::devices().across(&world).expect("two processes")).expect("two processes");
    let turns = Often::devices().for_schedule(ScheduleKind::LoopedBfs, 2).across(&world).expect("two processes");
    let often_vars = Often::vars(&turns).expect("two processes");
    let mut once = built(Once { first: Pass, last: Last }.pipe(&once_vars).intra_op_threads(1));
    let layers = || Often { first: [(); 9].map(|()| Pass), last: Last };
    let mut often = built(layers().pipe(&often_vars).schedule(ScheduleKind::LoopedBfs).ranks(2).intra_op_threads(1));
    // What the stages themselves cost: one thread runs them in turn.
    let [mut few_here, mut many_here] = [2, 10].map(|stages| {
        let vars = Often::vars(&Devices::cpu(stages)).expect("there is a CPU");
        built(layers().pipe(&vars).ranks(1).intra_op_threads(1))
    });
    for (size, rounds) in SIZES {
        let x = floats(size);
        let [mut short, mut long, mut few, mut many, mut copies] = [const { Vec::new() }; 5];
        let mut copy = x.zeros_like();
        for _ in 0..rounds + 2 {
            short.push(predict(&world, &mut once, &x));
            long.push(predict(&world, &mut often, &x));
            few.push(predict(&world, &mut few_here, &x));
            many.push(predict(&world, &mut many_here, &x));
            let start = Instant::now();
            copy.copy_(&x);
            copies.push(start.elapsed().as_secs_f64());
        }
        if world.is_first() {
            let [boundary, stage] = [(short, long), (few, many)].map(|(a, b)| (median(b) - median(a)) / MORE_CROSSINGS);
            println!("{boundary} {stage} {}", median(copies));
        }
    }

    let rows = Tensor::ones([CHUNKS as i64, 1], (Kind::Float, Device::Cpu));
    let [mut without, mut with] = [None, Some(BESIDE)].map(|size| {
        let vars = Busy::vars(&Busy::devices().across(&world).expect("two processes")).expect("two processes");
        let compute = |size: Option<i64>| Compute {
            numbers: Tensor::ones([512, 512], (Kind::Float, Device::Cpu)),
            result: size.map_or_else(|| floats(0), floats),
        };
        let net = Busy { first: compute(size), second: compute(None), last: Last };
        built(net.pipe(&vars).intra_op_threads(1))
    });
    let (mut short, mut long) = (Vec::new(), Vec::new());
    for _ in 0..15 {
        short.push(predict(&world, &mut without, &rows));
        long.push(predict(&world, &mut with, &rows));
    }
    if world.is_first() {
        println!("{} {}", median(short) / CHUNKS as f64, median(long) / CHUNKS as f64);
    }
}

fn built<M: Pipeline>(builder: pipe_runtime::PipeBuilder<M>) -> Pipe<M> {
    builder.build().expect("it is a pipeline")
}

/// So many bytes, in one row.
fn floats(bytes: i64) -> Tensor {
    Tensor::ones([1, bytes / 4], (Kind::Float, Device::Cpu))
}

fn predict<M: Pipeline<Input = Tensor>>(world: &World, pipe: &mut Pipe<M>, x: &Tensor) -> f64 {
    // Both begin together.
    let _ = world.all_gather(b"").expect("the other process lives");
    let start = Instant::now();
    let _ = pipe.predict(x).expect("nothing fails");
    start.elapsed().as_secs_f64()
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn bytes(size: i64) -> String {
    if size < 1 << 20 { format!("{} KiB", size >> 10) } else { format!("{} MiB", size >> 20) }
}

fn show(seconds: f64) -> String {
    let micros = seconds * 1e6;
    if micros < 1000. { format!("{micros:.2} µs") } else { format!("{:.2} ms", micros / 1e3) }
}
