//! The processes of a program.
//!
//! A thread gives the other processes signs, also while a layer takes long, and takes in theirs. So
//! a process that is frozen is told from one that is busy.

use std::fmt;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use pipe_comm::{Comm, CommError, Sending};
use tch::{Kind, Tensor};

use crate::error::{Error, Result};
use crate::lock::lock;
use crate::torch::{ReceivedSpan, SentSpan};

/// The tags of tensors that belong to no pipeline, and of signs.
const TENSORS: u16 = u16::MAX;
const SIGNS: u16 = u16::MAX - 1;

/// The time between two signs.
const INTERVAL: Duration = Duration::from_millis(100);

/// How long a process waits for the others, if [`World::deadline`] says nothing else.
const DEADLINE: Duration = Duration::from_secs(600);

/// The processes of a program, as an MPI launcher has started them (`mpiexec -n 2 my-program`).
///
/// ```
/// use pipe_runtime::World;
///
/// let world = World::init()?; // alone, without a launcher
/// assert_eq!((world.process(), world.size()), (0, 1));
/// # Ok::<(), pipe_runtime::Error>(())
/// ```
///
/// MPI is opened at run time: nothing of it is needed to build a program, and one that runs without
/// a launcher never loads it.
#[derive(Clone)]
pub struct World {
    comm: Comm,
    deadline: Duration,
    /// `None` if the process is alone.
    signs: Option<Arc<Signs>>,
}

/// The signs of the other processes.
struct Signs {
    /// When each process last gave one, and when this one's thread last looked.
    last: Mutex<(Vec<Instant>, Instant)>,
}

impl World {
    /// Joins the processes that the launcher has started. Without a launcher, the process is alone.
    ///
    /// # Errors
    ///
    /// Fails if the launcher's MPI library cannot be opened, or if the library does not know the
    /// other processes, as with another library's launcher.
    pub fn init() -> Result<Self> {
        let comm = Comm::init()?;
        let signs = if comm.size() > 1 { Some(give_signs(&comm)?) } else { None };
        Ok(Self { comm, deadline: DEADLINE, signs })
    }

    /// Sets how long a process waits for a sign of the others before it gives up with an error. The
    /// default is 10 minutes; less than a second is too short to be told from a busy machine.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// The number of this process, from 0.
    pub fn process(&self) -> usize {
        self.comm.rank()
    }

    /// The number of processes.
    pub fn size(&self) -> usize {
        self.comm.size()
    }

    /// Whether this process is the first one: the one that prints, for example.
    pub fn is_first(&self) -> bool {
        self.process() == 0
    }

    /// Gathers bytes from all processes, in their order. All processes call this together.
    ///
    /// # Errors
    ///
    /// Fails if a process is lost, or does not answer before the deadline.
    pub fn all_gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        if self.size() == 1 {
            return Ok(vec![bytes.to_vec()]);
        }
        let lengths = self.gather((bytes.len() as u64).to_le_bytes().to_vec())?;
        let lengths: Vec<_> = lengths.iter().map(|length| number(length) as usize).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let mut padded = bytes.to_vec();
        padded.resize(longest, 0);
        let mut gathered = self.gather(padded)?;
        gathered.iter_mut().zip(lengths).for_each(|(bytes, length)| bytes.truncate(length));
        Ok(gathered)
    }

    /// Gathers as many bytes from each process.
    pub(crate) fn gather(&self, bytes: Vec<u8>) -> Result<Vec<Vec<u8>>> {
        Ok(self.comm.all_gather(bytes)?.wait(Some(Instant::now() + self.deadline))?)
    }

    /// Sends a tensor to another process, row by row, and waits until it has it.
    pub(crate) fn send(&self, to: usize, tensor: &Tensor) -> Result<()> {
        let (_, span) = SentSpan::new(&tensor.f_contiguous()?)?;
        Ok(self.comm.send(to, TENSORS, span)?.wait(Some(Instant::now() + self.deadline))?)
    }

    /// Receives a tensor of this size and kind from another process.
    pub(crate) fn receive(&self, from: usize, size: Vec<i64>, kind: Kind) -> Result<Tensor> {
        let span = ReceivedSpan::contiguous(size, kind)?;
        Ok(self.comm.receive(from, TENSORS, span)?.wait(Some(Instant::now() + self.deadline))?.tensor()?)
    }

    /// Fails if a process has given no sign for the time of the deadline.
    pub(crate) fn check_signs(&self) -> Result<()> {
        let Some(signs) = &self.signs else { return Ok(()) };
        let (last, looked) = &*lock(&signs.last);
        // If this process was stopped itself, it has not looked.
        if looked.elapsed() > 4 * INTERVAL {
            return Ok(());
        }
        match last.iter().position(|sign| sign.elapsed() > self.deadline) {
            None => Ok(()),
            Some(process) => Err(Error::Connection(format!(
                "process {process} has given no sign for {} s: it is frozen, or its network is",
                self.deadline.as_secs_f64()
            ))),
        }
    }

    pub(crate) fn comm(&self) -> &Comm {
        &self.comm
    }

    /// Takes a tag for the messages of a pipeline. All processes build their pipelines in the same
    /// order.
    pub(crate) fn tag(&self) -> Result<u16> {
        // All worlds of a process are one.
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let next = |tag: u16| Some(tag + 1).filter(|&next| next <= SIGNS);
        let tag = NEXT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        tag.map_err(|_| Error::Setting("too many pipelines were built over several processes".into()))
    }
}

/// Starts the thread that gives signs and takes in those of the others, once per process.
fn give_signs(comm: &Comm) -> Result<Arc<Signs>> {
    static SHARED: OnceLock<Arc<Signs>> = OnceLock::new();
    if let Some(signs) = SHARED.get() {
        return Ok(Arc::clone(signs));
    }
    let now = Instant::now();
    let signs = Arc::new(Signs { last: Mutex::new((vec![now; comm.size()], now)) });
    let (comm, shared) = (comm.clone(), Arc::clone(SHARED.get_or_init(|| Arc::clone(&signs))));
    let work = move || {
        // The connection may end before the process does; then nobody waits any more.
        let _ = exchange_signs(&comm, &shared);
    };
    let started = thread::Builder::new().name("pipe-signs".into()).spawn(work);
    started.map_err(|error| Error::Setting(format!("cannot start a worker thread: {error}")))?;
    Ok(signs)
}

fn exchange_signs(comm: &Comm, signs: &Signs) -> Result<(), CommError> {
    let others = || (0..comm.size()).filter(|&process| process != comm.rank());
    let receive = |process: usize| comm.receive(process, SIGNS, vec![0]);
    let mut receiving = others().map(|process| Ok((process, receive(process)?))).collect::<Result<Vec<_>, _>>()?;
    let mut sending = others().map(|process| (process, None)).collect::<Vec<(usize, Option<Sending<Vec<u8>>>)>>();
    loop {
        thread::sleep(INTERVAL);
        {
            let (last, looked) = &mut *lock(&signs.last);
            let now = Instant::now();
            if now - *looked > 4 * INTERVAL {
                // This process was stopped itself.
                last.fill(now);
            }
            *looked = now;
            last[comm.rank()] = now;
            for (process, sign) in &mut receiving {
                while sign.is_done()? {
                    last[*process] = now;
                    *sign = receive(*process)?;
                }
            }
        }
        for (process, sign) in &mut sending {
            // A process that takes in no signs gets no more.
            if sign.as_mut().map_or(Ok(true), Sending::is_done)? {
                *sign = Some(comm.send(*process, SIGNS, vec![1])?);
            }
        }
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.try_into().map(u64::from_le_bytes).unwrap_or_default()
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World")
            .field("process", &self.process())
            .field("size", &self.size())
            .field("library", &self.comm.library())
            .finish()
    }
}
