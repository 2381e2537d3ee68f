//! The processes of a program.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use pipe_comm::Comm;
use tch::{Kind, Tensor};

use crate::error::{Error, Result};
use crate::torch::{ReceivedSpan, SentSpan};

/// The tag of tensors that belong to no pipeline.
const TENSORS: u16 = u16::MAX;

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
    /// The number of the next pipeline, which is the tag of its messages.
    next: Arc<AtomicU16>,
    deadline: Duration,
}

impl World {
    /// Joins the processes that the launcher has started. Without a launcher, the process is alone.
    ///
    /// # Errors
    ///
    /// Fails if the launcher's MPI library cannot be opened, or if the library does not know the
    /// other processes, as with another library's launcher.
    pub fn init() -> Result<Self> {
        Ok(Self { comm: Comm::init()?, next: Arc::default(), deadline: DEADLINE })
    }

    /// Sets how long a process waits for a sign of the others before it gives up with an error. The
    /// default is 10 minutes.
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

    pub(crate) fn comm(&self) -> &Comm {
        &self.comm
    }

    pub(crate) fn patience(&self) -> Duration {
        self.deadline
    }

    /// Takes a tag for the messages of a pipeline. All processes build their pipelines in the same
    /// order.
    pub(crate) fn tag(&self) -> Result<u16> {
        let tag = self.next.fetch_add(1, Ordering::Relaxed);
        if tag == TENSORS {
            return Err(Error::Setting("too many pipelines were built over several processes".into()));
        }
        Ok(tag)
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
