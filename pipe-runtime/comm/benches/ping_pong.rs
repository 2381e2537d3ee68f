//! The time that a message takes from one process to another, through `Comm`, and through MPI's own
//! functions where they can be called without tables (Open MPI).
//!
//! `cargo bench -p pipe-comm` starts two processes with Open MPI and then with MPICH. A message
//! goes to and fro; the numbers are half of that.

#![allow(unsafe_code)]

#[path = "../tests/processes/launch.rs"]
#[allow(dead_code)]
mod launch;
#[path = "ping_pong/raw.rs"]
mod raw;

use std::env;
use std::sync::Arc;
use std::time::{Duration, Instant};

use launch::{Mpich, OpenMpi, Ulfm};
use pipe_comm::Comm;

/// Sizes in bytes, their names, and how often each goes to and fro.
const SIZES: [(usize, &str, usize); 5] = [
    (4, "4 B", 10_000),
    (4 << 10, "4 KiB", 10_000),
    (64 << 10, "64 KiB", 3000),
    (1 << 20, "1 MiB", 500),
    (64 << 20, "64 MiB", 15),
];

fn main() {
    if env::var_os("PIPE_COMM_BENCH").is_some() {
        return measure();
    }
    println!("| MPI | message | `Comm`, p50 | p95 | MPI's functions, p50 | p95 |\n|---|---|---|---|---|---|");
    for mpi in [OpenMpi, Ulfm, Mpich] {
        let program = env::current_exe().expect("this program has a path");
        let mut command = mpi.command(2, 120, &program);
        command.env("PIPE_COMM_BENCH", format!("{mpi:?}"));
        let status = command.status().expect("`timeout` can be started");
        assert!(status.success(), "{mpi:?}: {status}");
    }
}

/// Measures in one of the two processes.
fn measure() {
    let comm = Comm::init().expect("the launcher's MPI can be opened");
    let name = env::var("PIPE_COMM_BENCH").unwrap_or_default();
    let raw = (name != "Mpich").then(|| raw::Raw::of_open_mpi().expect("Open MPI is open"));
    for (size, shown, rounds) in SIZES {
        let sent: Arc<[u8]> = vec![1; size].into();
        let mut received = Some(vec![2; size]);
        let own = time(comm.rank(), rounds, |sends| {
            if sends {
                let sending = comm.send(1 - comm.rank(), 1, Arc::clone(&sent));
                sending.and_then(|sending| sending.wait(None)).expect("it is sent");
            } else {
                let buffer = received.take().expect("it is back");
                let receiving = comm.receive(1 - comm.rank(), 1, buffer);
                received = Some(receiving.and_then(|receiving| receiving.wait(None)).expect("it arrives"));
            }
        });
        let (sent, mut received) = (vec![1; size], vec![2; size]);
        let theirs = raw.as_ref().map(|raw| {
            time(comm.rank(), rounds, |sends| {
                if sends { raw.send(1 - comm.rank(), &sent) } else { raw.receive(1 - comm.rank(), &mut received) }
            })
        });
        if comm.rank() == 0 {
            let theirs = theirs.unwrap_or_else(|| ["".into(), "".into()]);
            println!("| {name} | {shown} | {} | {} |", own.join(" | "), theirs.join(" | "));
        }
    }
}

/// p50 and p95 of half a round.
fn time(rank: usize, rounds: usize, mut step: impl FnMut(bool)) -> [String; 2] {
    let mut times = Vec::with_capacity(rounds);
    for _ in 0..rounds + rounds / 10 {
        let start = Instant::now();
        step(rank == 0);
        step(rank == 1);
        times.push(start.elapsed() / 2);
    }
    let mut times = times.split_off(rounds / 10);
    times.sort();
    [times[times.len() / 2], times[times.len() * 95 / 100]].map(show)
}

fn show(time: Duration) -> String {
    let micros = time.as_secs_f64() * 1e6;
    if micros < 1000.0 { format!("{micros:.2} µs") } else { format!("{:.2} ms", micros / 1e3) }
}
