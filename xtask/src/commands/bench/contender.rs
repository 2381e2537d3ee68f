//! A process that runs steps when asked to.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};

use crate::tools::checkout::Checkout;

/// The limit for importing torch on a busy machine, or for the longest turn.
const PATIENCE: Duration = Duration::from_secs(300);

/// A process that has reported that it is ready, and waits.
#[derive(Debug)]
pub struct Contender {
    pub name: String,
    child: Child,
    /// `None` once the process was asked to end.
    requests: Option<ChildStdin>,
    answers: Receiver<String>,
    /// The file for its other output.
    log: PathBuf,
}

/// The results of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    pub loss: f64,
    /// The norm of all gradients; `None` for a contender that computes none.
    pub gradient_norm: Option<f64>,
}

impl Contender {
    pub fn start(checkout: &Checkout, name: &str, mut command: Command) -> anyhow::Result<Self> {
        let folder = checkout.bench();
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let log = folder.join(format!("{}.log", name.replace(|c: char| !c.is_ascii_alphanumeric(), "-")));
        let messages = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(messages);
        set_apart(&mut command);
        let mut child = command.spawn().with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let requests = child.stdin.take();
        let output = child.stdout.take().context("its output is piped")?;
        let (sender, answers) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let contender = Self { name: name.to_owned(), child, requests, answers, log };
        match contender.answer()?.as_str() {
            "ready" => contender.signal(Signal::Stop),
            other => bail!("{name} begins with `{other}` instead of `ready`"),
        }
        Ok(contender)
    }

    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Runs a step.
    pub fn check(&mut self) -> anyhow::Result<Outcome> {
        let numbers = self.ask("check")?;
        let [loss, norm] = numbers[..] else { bail!("{} answers `check` with {numbers:?}", self.name) };
        Ok(Outcome { loss, gradient_norm: Some(norm).filter(|norm| norm.is_finite()) })
    }

    /// Runs a step that does not count, then `steps` steps. Returns their times in milliseconds.
    pub fn turn(&mut self, steps: usize) -> anyhow::Result<Vec<f64>> {
        self.times("turn", steps)
    }

    /// The same with traced steps. Returns the milliseconds in which the last stage was busy.
    pub fn busy(&mut self, steps: usize) -> anyhow::Result<Vec<f64>> {
        self.times("busy", steps)
    }

    /// Traces a step after one that does not count. Returns for each rank the bytes of its peak:
    /// the measured one, and that of the trace's simulation.
    pub fn memory(&mut self) -> anyhow::Result<Vec<[f64; 2]>> {
        let numbers = self.ask("memory")?;
        let (pairs, rest) = numbers.as_chunks::<2>();
        if pairs.is_empty() || !rest.is_empty() {
            bail!("{} answers `memory` with {numbers:?}", self.name);
        }
        Ok(pairs.to_vec())
    }

    fn times(&mut self, request: &str, steps: usize) -> anyhow::Result<Vec<f64>> {
        let mut times = self.ask(&format!("{request} {steps}"))?;
        // The loss, which is not used here.
        times.pop();
        if times.len() != steps {
            bail!("{} gave {} times for {steps} steps", self.name, times.len());
        }
        Ok(times)
    }

    fn ask(&mut self, request: &str) -> anyhow::Result<Vec<f64>> {
        self.signal(Signal::GoOn);
        if let Some(requests) = &mut self.requests {
            // If it has ended, the missing answer shows it.
            let _ = writeln!(requests, "{request}").and_then(|()| requests.flush());
        }
        let answer = self.answer()?;
        self.signal(Signal::Stop);
        let numbers = answer.split_whitespace().map(str::parse).collect::<Result<_, _>>();
        numbers.with_context(|| format!("{} answers `{request}` with `{answer}`", self.name))
    }

    /// Sends a signal to the contender and its child processes: torch 2.3's Pipe keeps a core busy
    /// while it has nothing to do, at the cost of the others.
    fn signal(&self, signal: Signal) {
        #[cfg(unix)]
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let signal = match signal {
                Signal::Stop => rustix::process::Signal::STOP,
                Signal::GoOn => rustix::process::Signal::CONT,
            };
            // If it has ended, the missing answer shows it.
            let _ = rustix::process::kill_process_group(group, signal);
        }
    }

    fn answer(&self) -> anyhow::Result<String> {
        self.answers.recv_timeout(PATIENCE).map_err(|error| {
            let what = match error {
                mpsc::RecvTimeoutError::Timeout => "gives no answer",
                mpsc::RecvTimeoutError::Disconnected => "has ended",
            };
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<_> = log.trim_end().lines().collect();
            let last = lines[lines.len().saturating_sub(5)..].join("\n");
            anyhow!("{} {what}; the end of {}:\n{last}", self.name, self.log.display())
        })
    }
}

/// Stops or continues a contender: without a turn, it must do nothing.
#[derive(Clone, Copy, Debug)]
enum Signal {
    Stop,
    GoOn,
}

/// Makes the process and its children a process group.
fn set_apart(command: &mut Command) {
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(command, 0);
}

impl Drop for Contender {
    fn drop(&mut self) {
        self.signal(Signal::GoOn);
        // The process ends at the end of its input, and ends its child processes. One that hangs
        // does not, and `mpiexec` does not pass it on.
        if let Some(mut requests) = self.requests.take() {
            let _ = writeln!(requests, "end");
        }
        for _ in 0..50 {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            thread::sleep(Duration::from_millis(100));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
