//! Signs of life: a thread gives the other processes signs, also while a layer takes long, and
//! takes in theirs. So a process that is frozen is told from one that is busy, and one that has
//! given up from one that comes.

use std::mem;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::{Duration, Instant};

use pipe_comm::{Comm, CommError, Sending};

use super::SIGNS;
use crate::error::{Error, Result};
use crate::lock::lock;

/// The time between two signs.
const INTERVAL: Duration = Duration::from_millis(100);

/// The signs of the other processes.
pub(super) struct Signs {
    /// When each process last gave one, and when this one's thread last looked.
    last: Mutex<(Vec<Instant>, Instant)>,
    /// Why this process has given up, if it has.
    has_given_up: Mutex<Option<String>>,
    /// Why no more signs come: the connection to the others has ended.
    ended: Mutex<Option<String>>,
    /// Whether the others have been told.
    is_told: AtomicBool,
    /// What ends when a process is lost, and the deadline for signs.
    watched: Mutex<Vec<(Weak<dyn Watched>, Duration)>>,
    /// The first other process that is known to have given up; `usize::MAX` if there is none.
    other: AtomicUsize,
}

/// Something that waits for other processes where no thread can tell it that they are lost.
pub(crate) trait Watched: Send + Sync {
    /// Ends the waiting, unless a thread uses it now, which learns of the loss itself. Returns
    /// whether it is ended.
    fn end(&self) -> bool;
}

/// What a sign says.
const LIVES: u8 = 1;
const HAS_GIVEN_UP: u8 = 2;

impl Signs {
    /// Starts the thread that gives signs and takes in those of the others, once per process.
    pub(super) fn shared(comm: &Comm) -> Result<Arc<Self>> {
        static SHARED: Mutex<Option<Arc<Signs>>> = Mutex::new(None);
        let mut shared = lock(&SHARED);
        if let Some(signs) = &*shared {
            return Ok(Arc::clone(signs));
        }
        let now = Instant::now();
        let signs = Arc::new(Self {
            last: Mutex::new((vec![now; comm.size()], now)),
            has_given_up: Mutex::default(),
            ended: Mutex::default(),
            is_told: AtomicBool::new(false),
            watched: Mutex::default(),
            other: AtomicUsize::new(usize::MAX),
        });
        let (comm, own) = (comm.clone(), Arc::clone(&signs));
        let work = move || {
            let ended = own.exchange(&comm);
            // The program may end the connection itself; then nobody waits any more.
            if let Err(error) = ended
                && error != CommError::Ended
            {
                *lock(&own.ended) = Some(error.to_string());
            }
            while !own.end_watched(true) {
                thread::sleep(INTERVAL / 100);
            }
            own.is_told.store(true, Ordering::Relaxed);
        };
        let started = thread::Builder::new().name("pipe-signs".into()).spawn(work);
        started.map_err(|error| Error::Setting(format!("cannot start a worker thread: {error}")))?;
        Ok(Arc::clone(shared.insert(signs)))
    }

    /// From now on, this process takes part in nothing, and the others hear so by its signs. Waits
    /// for a short time until they are told, since this process may end now.
    pub(super) fn give_up(&self, reason: &str) {
        lock(&self.has_given_up).get_or_insert_with(|| reason.to_owned());
        let start = Instant::now();
        while !self.is_told.load(Ordering::Relaxed) && start.elapsed() < 4 * INTERVAL {
            thread::sleep(INTERVAL / 20);
        }
    }

    /// Fails if a process has given up, this one included, or has given no sign for the time of the
    /// deadline.
    pub(super) fn check(&self, deadline: Duration) -> Result<()> {
        if let Some(reason) = &*lock(&self.has_given_up) {
            return Err(Error::Connection(format!(
                "an earlier call has ended this process's connection to the others: {reason}"
            )));
        }
        if let Some(reason) = &*lock(&self.ended) {
            return Err(Error::Connection(format!("the connection to the other processes has ended: {reason}")));
        }
        let other = self.other.load(Ordering::Relaxed);
        if other != usize::MAX {
            return Err(Error::Connection(format!(
                "process {other} has left: an earlier call has failed there, and not here"
            )));
        }
        let (last, looked) = &*lock(&self.last);
        // If this process was stopped itself, it has not looked.
        if looked.elapsed() > 4 * INTERVAL {
            return Ok(());
        }
        match last.iter().position(|sign| sign.elapsed() > deadline) {
            None => Ok(()),
            Some(process) => Err(Error::Connection(format!(
                "process {process} has given no sign for {} s: it is frozen, or its network is",
                deadline.as_secs_f64()
            ))),
        }
    }

    /// Ends `watched` when a process is lost, or gives no sign for the time of the deadline.
    pub(super) fn watch(&self, watched: &Arc<dyn Watched>, deadline: Duration) {
        let mut all = lock(&self.watched);
        all.retain(|(watched, _)| watched.strong_count() > 0);
        all.push((Arc::downgrade(watched), deadline));
    }

    /// Ends what is watched: everything, or what waits for longer than its deadline. Returns
    /// whether nothing is left.
    fn end_watched(&self, everything: bool) -> bool {
        let watched = std::mem::take(&mut *lock(&self.watched));
        for (watched, deadline) in watched {
            let is_over = everything || self.check(deadline).is_err();
            let goes_on = watched.upgrade().is_some_and(|watched| !(is_over && watched.end()));
            if goes_on {
                lock(&self.watched).push((watched, deadline));
            }
        }
        lock(&self.watched).is_empty()
    }

    fn exchange(&self, comm: &Comm) -> Result<(), CommError> {
        let others = || (0..comm.size()).filter(|&process| process != comm.rank());
        let receive = |process: usize| comm.receive(process, SIGNS, vec![0]);
        let mut receiving = others().map(|process| Ok((process, receive(process)?))).collect::<Result<Vec<_>, _>>()?;
        let mut sending = others().map(|process| (process, None)).collect::<Vec<(usize, Option<Sending<Vec<u8>>>)>>();
        loop {
            thread::sleep(INTERVAL);
            {
                let (last, looked) = &mut *lock(&self.last);
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
                        if mem::replace(sign, receive(*process)?).take() == [HAS_GIVEN_UP] {
                            self.other.fetch_min(*process, Ordering::Relaxed);
                        }
                    }
                }
            }
            let says = if lock(&self.has_given_up).is_some() { HAS_GIVEN_UP } else { LIVES };
            for (process, sign) in &mut sending {
                // A process that takes in no signs gets no more.
                if sign.as_mut().map_or(Ok(true), Sending::is_done)? {
                    *sign = Some(comm.send(*process, SIGNS, vec![says])?);
                }
            }
            self.is_told.store(says == HAS_GIVEN_UP, Ordering::Relaxed);
            let _ = self.end_watched(false);
        }
    }
}
