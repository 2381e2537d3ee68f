//! The processes of a program.

mod agreement;
mod message_price;
mod signs;

pub(crate) use agreement::WireError;
#[cfg(fuzzing)]
pub(crate) use agreement::read_said;
pub use message_price::MessagePrice;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use pipe_comm::Comm;
use tch::{Kind, Tensor};

use crate::error::{Error, Result};
use crate::torch::{ReceivedSpan, SentSpan};
use agreement::wait;
use signs::Signs;
pub(crate) use signs::Watched;

/// The tags of tensors that belong to no pipeline, and of signs.
const TENSORS: u16 = u16::MAX;
const SIGNS: u16 = u16::MAX - 1;

/// The greatest piece of what a process says, besides tensors, in bytes. What is longer comes in
/// several, and memory is allocated as they come: nobody can announce what the others have not.
pub(crate) const PIECE: usize = 1 << 16;

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
    /// The number of replicas of each pipeline.
    replicas: usize,
    /// `None` if the process is alone.
    signs: Option<Arc<Signs>>,
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
        let signs = if comm.size() > 1 { Some(Signs::shared(&comm)?) } else { None };
        Ok(Self { comm, deadline: DEADLINE, replicas: 1, signs })
    }

    /// Sets how long a process waits for a sign of the others before it gives up with an error. The
    /// default is 10 minutes; less than a second is too short to be told from a busy machine.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Divides the processes into replicas: each runs the whole pipeline, on rows of its own, and
    /// [`train_step`](crate::Pipe::train_step) sums the gradients over all of them. Consecutive
    /// processes belong to one replica.
    ///
    /// ```
    /// use pipe_runtime::{Devices, World};
    ///
    /// // `mpiexec -n 4`: two replicas, each of two processes.
    /// # let two = 1;
    /// let world = World::init()?.replicas(two)?;
    /// let devices = Devices::cpu(2).across(&world)?;
    /// println!("the rows of replica {}", world.replica());
    /// # Ok::<(), pipe_runtime::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails if the number of processes is not a multiple of `count`.
    pub fn replicas(mut self, count: usize) -> Result<Self> {
        let size = self.size();
        if count == 0 || !size.is_multiple_of(count) {
            return Err(Error::Setting(format!(
                "{size} processes cannot be divided into {count} replicas of equal size"
            )));
        }
        self.replicas = count;
        Ok(self)
    }

    /// The number of the replica that this process belongs to, from 0.
    pub fn replica(&self) -> usize {
        self.process() / self.per_replica()
    }

    /// The number of replicas; 1 unless [`replicas`](Self::replicas) has set it.
    pub fn replica_count(&self) -> usize {
        self.replicas
    }

    /// The number of processes of a replica.
    pub(crate) fn per_replica(&self) -> usize {
        self.size() / self.replicas
    }

    /// The number of this process in its replica.
    pub(crate) fn position(&self) -> usize {
        self.process() % self.per_replica()
    }

    /// The processes that run what this one runs, one in each replica.
    pub(crate) fn twins(&self) -> Vec<usize> {
        (0..self.replicas).map(|replica| replica * self.per_replica() + self.position()).collect()
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
    /// Fails if a process is lost or gives no sign until the deadline, or if one calls something
    /// else.
    pub fn all_gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.exchange_bytes("World::all_gather", bytes, || self.check_signs())
    }

    /// Sends a tensor to another process, row by row, and waits until it has it.
    pub(crate) fn send(&self, to: usize, tensor: &Tensor) -> Result<()> {
        self.check_signs()?;
        let (_, span) = SentSpan::new(&tensor.f_contiguous()?, None)?;
        let mut sending = self.comm.send(to, TENSORS, span)?;
        self.wait(|| sending.is_done())
    }

    /// Receives a tensor of this size and kind from another process.
    pub(crate) fn receive(&self, from: usize, size: Vec<i64>, kind: Kind) -> Result<Tensor> {
        self.check_signs()?;
        let span = ReceivedSpan::contiguous(size, kind)?;
        let mut receiving = self.comm.receive(from, TENSORS, span)?;
        self.wait(|| receiving.is_done())?;
        Ok(receiving.take().tensor()?)
    }

    /// Ends this process's part in everything, after an error that the others do not have. They
    /// hear of it, and what waits for this process fails.
    pub(crate) fn give_up(&self, reason: impl fmt::Display) {
        self.comm.revoke();
        if let Some(signs) = &self.signs {
            signs.give_up(&reason.to_string());
        }
    }

    /// Fails if a process has given up, or has given no sign for the time of the deadline.
    pub(crate) fn check_signs(&self) -> Result<()> {
        self.signs.as_ref().map_or(Ok(()), |signs| signs.check(self.deadline))
    }

    /// Waits until something is done, for as long as all processes give signs.
    pub(crate) fn wait<E: Into<Error>>(&self, mut is_done: impl FnMut() -> Result<bool, E>) -> Result<()> {
        wait(|| is_done().map_err(Into::into), || self.check_signs())
    }

    /// Ends `watched` as soon as a process is lost, also while all threads of this one wait for an
    /// accelerator.
    pub(crate) fn watch(&self, watched: &Arc<dyn Watched>) {
        if let Some(signs) = &self.signs {
            signs.watch(watched, self.deadline);
        }
    }

    /// What to say beside a file that this process cannot read, and another one may have.
    pub(crate) fn reads_the_same_files(&self) -> String {
        match self.size() {
            1 => String::new(),
            size => format!(
                " (in process {} of {size}: all processes read the same files, so they must be on a file system that all \
                 see)",
                self.process()
            ),
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

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World")
            .field("process", &self.process())
            .field("size", &self.size())
            .field("library", &self.comm.library())
            .finish()
    }
}
