//! Runs processes that exchange messages below the launchers of Open MPI and MPICH. Each test
//! starts this binary again, as its processes.

mod ends;
mod launch;
mod losses;
mod messages;
mod threads;

use std::env;
use std::process::{Command, ExitStatus};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use launch::{Launcher, Mpich, OpenMpi, Standard, Ulfm};
use pipe_comm::{Comm, CommError};

/// The variable that names the test of which a process is part.
const TEST: &str = "PIPE_COMM_TEST";

/// What a process prints that has done its part.
const DONE: &str = "this process is done";

/// The seconds after which a launch is ended and has failed.
const LIMIT: u32 = 60;

const ALL: [(Launcher, usize); 6] = [(OpenMpi, 2), (OpenMpi, 4), (Ulfm, 2), (Mpich, 2), (Mpich, 4), (Standard, 2)];

/// How a launch has ended, and what its processes have printed.
struct Ended {
    status: ExitStatus,
    output: String,
    took: Duration,
}

/// Whether this is a process of a launch of the test `name`.
fn is_process_of(name: &str) -> bool {
    env::var_os(TEST).is_some_and(|test| test == *name)
}

/// Runs `body` in processes below each launcher. It must end well in all of them.
fn in_processes(name: &str, launches: &[(Launcher, usize)], body: impl Fn(&Comm)) {
    if is_process_of(name) {
        body(&Comm::init().unwrap());
        return println!("{DONE}");
    }
    for (mpi, processes) in launches {
        let ended = launch(name, *mpi, *processes);
        assert!(ended.status.success(), "{processes} of {mpi:?} end with {}:\n{}", ended.status, ended.output);
        assert_eq!(ended.output.matches(DONE).count(), *processes, "{processes} of {mpi:?}:\n{}", ended.output);
        assert!(!ended.output.contains("warning"), "{processes} of {mpi:?}:\n{}", ended.output);
    }
}

/// Starts processes of the test `name`.
fn launch(name: &str, mpi: Launcher, processes: usize) -> Ended {
    run(name, mpi.command(processes, LIMIT, &env::current_exe().unwrap()))
}

/// Starts processes of the test `name`, whose launcher must report soon that they have failed.
fn launch_to_fail(name: &str, mpi: Launcher, processes: usize) -> Ended {
    let ended = launch(name, mpi, processes);
    assert!(ended.took < Duration::from_secs(10), "{mpi:?}: {:?}\n{}", ended.took, ended.output);
    assert!(!ended.status.success(), "{mpi:?}: {}", ended.output);
    ended
}

/// Runs a command to its end, to which it adds the arguments that select the test.
fn run(name: &str, mut command: Command) -> Ended {
    // Two launches at a time would only wait for each other's processes.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    command.args([name, "--exact", "--nocapture"]).env(TEST, name);
    // cargo's search path for libraries is not that of a user.
    command.env_remove("LD_LIBRARY_PATH").env("RUST_BACKTRACE", "0");
    let start = Instant::now();
    let output = command.output().unwrap();
    let took = start.elapsed();
    assert_ne!(output.status.code(), Some(124), "it has not ended:\n{}", String::from_utf8_lossy(&output.stdout));
    let text = [output.stdout, output.stderr].concat();
    Ended { status: output.status, output: String::from_utf8_lossy(&text).into_owned(), took }
}

/// A deadline that no test should reach.
fn soon() -> Option<Instant> {
    Some(Instant::now() + Duration::from_secs(30))
}

/// Waits until all processes come here.
fn barrier(comm: &Comm) {
    comm.all_gather(vec![0]).unwrap().wait(soon()).unwrap();
}

/// The bytes of a message, which no other message has.
fn content(from: usize, to: usize, number: usize, length: usize) -> Vec<u8> {
    let mut state = (from << 40 | to << 32 | number) as u64 | 1 << 63;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    // A prime, so that no piece of MPI's begins like another one.
    let block: Vec<_> = (0..length.min(4093)).map(next).collect();
    let mut bytes = block.repeat(length.div_ceil(4093));
    bytes.truncate(length);
    bytes
}

fn others(comm: &Comm) -> impl Iterator<Item = usize> {
    let (rank, size) = (comm.rank(), comm.size());
    (1..size).map(move |step| (rank + step) % size)
}
