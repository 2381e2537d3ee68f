//! Starts processes of this binary.

use std::env;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Tells a process which test it is part of.
const ROLE: &str = "PIPE_TEST_ROLE";

/// The numbers of the launch.
const NUMBERS: &str = "PIPE_TEST_NUMBERS";

/// The time after which a launch has failed.
pub const LIMIT: Duration = Duration::from_secs(180);

/// The MPIs that `cargo xtask mpi` installs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mpi {
    Open,
    Mpich,
}

impl Mpi {
    pub const ALL: [Self; 2] = [Self::Open, Self::Mpich];

    /// The folder in the per-user cache.
    fn folder(self) -> PathBuf {
        let name = match self {
            Self::Open => "openmpi-5.0.11",
            Self::Mpich => "mpich-5.0.2",
        };
        let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
        let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home).expect("there is a home");
        cache.join("pipe-mpi").join(name)
    }

    /// A command that starts this many processes.
    pub fn mpiexec(self, processes: usize) -> Command {
        let folder = self.folder();
        let mpiexec = folder.join("bin/mpiexec");
        assert!(mpiexec.is_file(), "there is no {}: run `cargo xtask mpi`", mpiexec.display());
        let mut command = Command::new(mpiexec);
        command.env("PIPE_MPI", &folder);
        if self == Self::Open {
            command.args(["--oversubscribe", "--bind-to", "none", "--with-ft", "ulfm"]);
            command.envs([
                ("OMPI_MCA_btl", "^ofi"),
                ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
                ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
            ]);
        }
        command.args(["-n", &processes.to_string()]);
        command
    }
}

/// What a launch has printed, and whether it ended with 0.
#[derive(Debug)]
pub struct Launched {
    pub success: bool,
    pub output: String,
}

/// Runs `body` in this many processes of the test `name`: in a process of the launch, this does
/// not return.
pub fn in_processes(mpi: Mpi, processes: usize, name: &str, body: impl FnOnce()) {
    let Launched { success, output } = launch(mpi, processes, name, &[], LIMIT, |_| body());
    assert!(success, "{processes} processes of {mpi:?}:\n{output}");
}

/// The same, without the check of how it ended. The processes get these numbers,
/// and are ended after `limit`.
pub fn launch(
    mpi: Mpi,
    processes: usize,
    name: &str,
    numbers: &[usize],
    limit: Duration,
    body: impl FnOnce(&[usize]),
) -> Launched {
    if env::var(ROLE).is_ok_and(|role| role == name) {
        let numbers = env::var(NUMBERS).unwrap();
        let numbers: Vec<_> = numbers.split_whitespace().map(|number| number.parse().unwrap()).collect();
        body(&numbers);
        std::process::exit(0);
    }
    // Two launches at a time would only wait for each other's processes.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let numbers: Vec<_> = numbers.iter().map(usize::to_string).collect();
    let mut command = mpi.mpiexec(processes);
    command.arg(env::current_exe().unwrap()).args([name, "--exact", "--nocapture", "--test-threads", "1"]);
    // A group of their own, to end them all.
    command.process_group(0);
    command.stdin(Stdio::null());
    let mut child = command
        .env(ROLE, name)
        .env(NUMBERS, numbers.join(" "))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let reader = thread::spawn(move || {
        let mut text = String::new();
        let _ = stdout.read_to_string(&mut text);
        text
    });
    let errors = thread::spawn(move || {
        let mut text = String::new();
        let _ = stderr.read_to_string(&mut text);
        text
    });
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if start.elapsed() > limit {
            let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", child.id())]).status();
            child.wait().unwrap();
            break None;
        }
        thread::sleep(Duration::from_millis(5));
    };
    let output = reader.join().unwrap() + &errors.join().unwrap();
    match status {
        Some(status) => Launched { success: status.success(), output },
        None => Launched { success: false, output: format!("it did not end within {limit:?}\n{output}") },
    }
}
