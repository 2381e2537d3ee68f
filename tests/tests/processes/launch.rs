//! Starts processes of this binary.

use std::env;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::{Mutex, PoisonError};

#[path = "../../../pipe-runtime/comm/tests/processes/launch.rs"]
mod launcher;

pub use launcher::Launcher::{self, Mpich, Ulfm};

/// Tells a process which test it is part of.
const ROLE: &str = "PIPE_TEST_ROLE";

/// The numbers of the launch.
const NUMBERS: &str = "PIPE_TEST_NUMBERS";

/// The time after which a launch has failed, in seconds.
pub const LIMIT: u32 = 180;

pub const BOTH: [Launcher; 2] = [Ulfm, Mpich];

/// What a process prints once its part is done: a launcher that tolerates lost processes ends with
/// 0 also if all of them were killed.
const DONE: &str = "this process is done";

/// What a launch has printed, and how it ended.
#[derive(Debug)]
pub struct Launched {
    pub status: ExitStatus,
    pub output: String,
}

impl Launched {
    /// Fails unless all of so many processes have done their part.
    pub fn check(&self, processes: usize) {
        let Self { status, output } = self;
        let done = output.matches(DONE).count();
        assert!(status.success() && done == processes, "{done} of {processes} are done, {status}:\n{output}");
    }
}

/// Runs `body` in this many processes of the test `name`: in a process of the launch, this does
/// not return.
pub fn in_processes(mpi: Launcher, processes: usize, name: &str, body: impl FnOnce()) {
    let launched = launch(mpi, processes, name, &[], LIMIT, |_| body());
    launched.check(processes);
}

/// The same, without the check of how it ended. The processes get these numbers,
/// and are ended after `seconds`.
pub fn launch(
    mpi: Launcher,
    processes: usize,
    name: &str,
    numbers: &[usize],
    seconds: u32,
    body: impl FnOnce(&[usize]),
) -> Launched {
    if is_process_of(name) {
        let numbers = env::var(NUMBERS).unwrap();
        let numbers: Vec<_> = numbers.split_whitespace().map(|number| number.parse().unwrap()).collect();
        done(|| body(&numbers));
    }
    let numbers: Vec<_> = numbers.iter().map(usize::to_string).collect();
    let mut command = mpi.command(processes, seconds, &env::current_exe().unwrap());
    start(command.env(NUMBERS, numbers.join(" ")), name)
}

/// The same, with paths for the processes, by the names of variables. They run `program`, if there
/// is one, which runs this binary.
#[allow(dead_code)] // For the tests of mock devices, which share this file.
pub fn launch_with(
    mpi: Launcher,
    processes: usize,
    paths: &[(&str, &Path)],
    program: Option<&Path>,
    name: &str,
    body: impl FnOnce(),
) -> Launched {
    if is_process_of(name) {
        done(body);
    }
    let own = env::current_exe().unwrap();
    let mut command = mpi.command(processes, LIMIT, program.unwrap_or(&own));
    start(command.envs(paths.iter().copied()), name)
}

/// The same for three processes of Open MPI that run `program`, which runs this binary.
pub fn launch_program(program: &Path, paths: &[(&str, &Path)], name: &str, body: impl FnOnce()) -> Launched {
    if is_process_of(name) {
        done(body);
    }
    start(Ulfm.command(3, LIMIT, program).envs(paths.iter().copied()), name)
}

fn is_process_of(name: &str) -> bool {
    env::var(ROLE).is_ok_and(|role| role == name)
}

/// Runs the part of a process, and ends it.
fn done(body: impl FnOnce()) -> ! {
    body();
    println!("\n{DONE}");
    std::process::exit(0);
}

fn start(command: &mut Command, name: &str) -> Launched {
    // Two launches at a time would only wait for each other's processes.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    command.args([name, "--exact", "--nocapture", "--test-threads", "1"]).env(ROLE, name);
    let mut run = || {
        let ended = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Launched { status: ended.status, output: text(&ended.stdout) + &text(&ended.stderr) }
    };
    // Once in some thousand launches, Open MPI's launcher cannot start a thread of its own, and has
    // not started any process.
    let launched = run();
    if launched.output.contains("listener thread failed to start") { run() } else { launched }
}
