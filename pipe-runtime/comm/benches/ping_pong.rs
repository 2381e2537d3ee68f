//! The time that a message takes from one process to another, through `Comm`, and in a C program
//! that calls MPI's own functions.
//!
//! `cargo bench -p pipe-comm` starts two processes of each with each launcher, in turns. A message
//! goes to and fro; the numbers are half of that. It needs a C compiler.

#[path = "../tests/processes/launch.rs"]
#[allow(dead_code)]
mod launch;

use std::env;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Instant;

use launch::{Launcher, Mpich, OpenMpi, Ulfm};
use pipe_comm::Comm;

/// Sizes in bytes, their names, and how often each goes to and fro.
const SIZES: [(usize, &str, usize); 5] = [
    (4, "4 B", 10_000),
    (4 << 10, "4 KiB", 10_000),
    (64 << 10, "64 KiB", 3000),
    (1 << 20, "1 MiB", 500),
    (64 << 20, "64 MiB", 15),
];

/// How often both programs are started. The best p50 counts, with its p95: what else runs on the
/// machine only adds.
const TURNS: usize = 5;

/// For each size: p50 and p95, in seconds.
type Times = Vec<[f64; 2]>;

fn main() {
    if env::var_os("PIPE_COMM_BENCH").is_some() {
        return measure();
    }
    println!("| MPI | message | `Comm`, p50 | p95 | C, p50 | p95 | ratio |\n|---|---|---|---|---|---|---|");
    let own = env::current_exe().expect("this program has a path");
    for mpi in [OpenMpi, Ulfm, Mpich] {
        let bare = compile(mpi);
        let mut best = [&own, &bare].map(|_| vec![[f64::INFINITY; 2]; SIZES.len()]);
        for _ in 0..TURNS {
            for (best, program) in best.iter_mut().zip([&own, &bare]) {
                let times = run(mpi, program);
                best.iter_mut()
                    .zip(times)
                    .filter(|(best, times)| times[0] < best[0])
                    .for_each(|(best, times)| *best = times);
            }
        }
        for (place, (_, shown, _)) in SIZES.iter().enumerate() {
            let [[own, own95], [bare, bare95]] = [best[0][place], best[1][place]];
            let shows = [own, own95, bare, bare95].map(show).join(" | ");
            println!("| {mpi:?} | {shown} | {shows} | {:.2} |", own / bare);
        }
    }
}

/// Compiles the C program.
fn compile(mpi: Launcher) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/ping_pong/bare.c");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("ping_pong_{mpi:?}"));
    mpi.compile(&source, &program);
    program
}

/// Runs one of the programs in two processes.
fn run(mpi: Launcher, program: &Path) -> Times {
    let mut command = mpi.command(2, 120, program);
    command.args(SIZES.iter().flat_map(|(size, _, rounds)| [size, rounds]).map(usize::to_string));
    let output = command.env("PIPE_COMM_BENCH", "1").stderr(Stdio::inherit()).output();
    let output = output.expect("`timeout` can be started");
    assert!(output.status.success(), "{mpi:?}: {}", output.status);
    let text = String::from_utf8(output.stdout).expect("it prints numbers");
    let numbers = text.lines().map(|line| line.split(' ').map(|number| number.parse().expect("it prints numbers")));
    let times: Times = numbers.map(|mut line| [(); 2].map(|()| line.next().expect("it prints two"))).collect();
    assert_eq!(times.len(), SIZES.len(), "{text}");
    times
}

/// Measures in one of the two processes.
fn measure() {
    let comm = Comm::init().expect("the launcher's MPI can be opened");
    let other = 1 - comm.rank();
    for (size, _, rounds) in SIZES {
        let sent: Arc<[u8]> = vec![1; size].into();
        let mut received = Some(vec![2; size]);
        let mut step = |sends: bool| {
            if sends {
                let sending = comm.send(other, 1, Arc::clone(&sent));
                sending.and_then(|sending| sending.wait(None)).expect("it is sent");
            } else {
                let buffer = received.take().expect("it is back");
                let receiving = comm.receive(other, 1, buffer);
                received = Some(receiving.and_then(|receiving| receiving.wait(None)).expect("it arrives"));
            }
        };
        let time = |_| {
            let start = Instant::now();
            step(comm.rank() == 0);
            step(comm.rank() == 1);
            start.elapsed().as_secs_f64() / 2.
        };
        let mut times: Vec<_> = (0..rounds + rounds / 10).map(time).skip(rounds / 10).collect();
        times.sort_by(f64::total_cmp);
        if comm.rank() == 0 {
            println!("{:.9} {:.9}", times[rounds / 2], times[rounds * 95 / 100]);
        }
    }
}

fn show(seconds: f64) -> String {
    let micros = seconds * 1e6;
    if micros < 1000. { format!("{micros:.2} µs") } else { format!("{:.2} ms", micros / 1e3) }
}
