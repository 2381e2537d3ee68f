//! The agreements of all processes with which a call begins and ends.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use std::time::Instant;

use pipe_comm::pause;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::Remote;
use super::channel::Delivered;
use super::wire::{Envelope, Form, Message, spans};
use crate::error::{Error, Result};
use crate::flow::{CHANGED_ON_ITS_WAY, PackedValue};
use crate::lock::lock;
use crate::run::repeats::Held;
use crate::world::WireError;

/// What a process says at the beginning of a call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Opening {
    /// The number that the call draws; that of the first process counts.
    pub(crate) seed: u64,
    /// The rows of each micro-batch; those of the process with the first stage count.
    pub(crate) rows: Vec<i64>,
}

/// A call that all processes have begun.
pub(crate) struct Opened {
    pub(crate) number: u64,
    /// The number that the first process drew.
    pub(crate) seed: u64,
    /// The rows of each micro-batch of this replica.
    pub(crate) rows: Vec<i64>,
    /// The number of micro-batches of the replicas before this one.
    pub(crate) before: usize,
}

/// What a process says at the end of a call.
#[derive(Debug, Serialize, Deserialize)]
enum Verdict<T> {
    Done(T),
    /// The position of the failed step, and the error unless it is another process's.
    Failed(u64, Option<WireError>),
}

/// What a process says in an agreement.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Said<T> {
    /// The number of its pipeline.
    number: u16,
    call: u64,
    model: u64,
    program: u64,
    value: Result<T, WireError>,
}

/// A digest of this program: of its length and its first bytes, which have the linker's build id.
/// 0 if it cannot be read.
fn program() -> u64 {
    static DIGEST: OnceLock<u64> = OnceLock::new();
    *DIGEST.get_or_init(|| {
        let read = || {
            // Also if another build has taken the file's place meanwhile.
            let running = Path::new("/proc/self/exe");
            let file = File::open(if running.exists() { running.to_owned() } else { std::env::current_exe()? })?;
            let mut digest = DefaultHasher::new();
            file.metadata()?.len().hash(&mut digest);
            let mut start = Vec::new();
            file.take(1 << 12).read_to_end(&mut start)?;
            start.hash(&mut digest);
            Ok::<_, std::io::Error>(digest.finish())
        };
        read().unwrap_or(0)
    })
}

impl Remote {
    /// Begins a call: all processes say what they call, in words.
    ///
    /// # Errors
    ///
    /// Fails on all processes if one of them could not prepare the call, or if they do not call the
    /// same.
    pub(crate) fn open(&self, what: &str, opening: Result<Opening, &Error>) -> Result<Opened> {
        let call = self.calls.load(Ordering::Relaxed);
        self.failed.store(usize::MAX, Ordering::Relaxed);
        lock(&self.channel).begin(call);
        let openings = self.agree(what, opening.as_ref().map_err(|error| *error))?;
        let first_stage = self.process_of(0);
        let earlier = (0..first_stage)
            .filter(|process| process % self.world.per_replica() == first_stage % self.world.per_replica());
        Ok(Opened {
            number: call,
            seed: openings[0].seed,
            rows: openings[first_stage].rows.clone(),
            before: earlier.map(|process| openings[process].rows.len()).sum(),
        })
    }

    /// Agrees on something that all processes do together: returns what they say, or one error for
    /// all, also if they do not do the same. `what` says it in words.
    pub(crate) fn agree<T: Serialize + DeserializeOwned>(&self, what: &str, own: Result<&T, &Error>) -> Result<Vec<T>> {
        self.check()?;
        let call = self.calls.load(Ordering::Relaxed);
        let program = program();
        let value = own.map_err(WireError::from);
        let own = Said { number: self.number, call, model: self.model, program, value };
        let all: Vec<Said<T>> = self.exchange(what, &own)?;
        let me = self.process();
        for (process, &Said { number, call: other, model, program: found, .. }) in all.iter().enumerate() {
            if found != program && found != 0 && program != 0 {
                return Err(Error::Setting(format!(
                    "processes {me} and {process} run different programs, or different builds of one: start the same file everywhere"
                )));
            }
            if number != self.number {
                return Err(Error::Setting(format!(
                    "process {me} calls pipeline {} of those that it has built, and process {process} pipeline {number}: all processes call the same ones",
                    self.number
                )));
            }
            if other != call {
                return Err(self.lost(Error::Connection(format!(
                    "process {me} makes call {call} of this pipeline, and process {process} makes call {other}: all processes make the same calls"
                ))));
            }
            if model != self.model {
                return Err(Error::Setting(format!(
                    "processes {me} and {process} have built different pipelines: the model, its devices and its settings must be the same"
                )));
            }
        }
        // All processes are here, so it is the same call on all of them.
        self.calls.store(call + 1, Ordering::Relaxed);
        all.into_iter().map(|said| said.value.map_err(Error::from)).collect()
    }

    /// Ends a call: returns the results of all processes if they have succeeded, otherwise the
    /// error of the step that is first in the order, on all of them.
    pub(crate) fn close<T: Serialize + DeserializeOwned>(&self, call: u64, outcome: Result<T>) -> Result<Vec<T>> {
        self.check()?;
        let outcome = outcome.and_then(|result| self.all_sent().map(|()| result));
        // The others may wait for what this process would have sent.
        if matches!(&outcome, Err(error) if !matches!(error, Error::Elsewhere))
            && self.failed.load(Ordering::Relaxed) == usize::MAX
        {
            self.has_failed(call, 0);
        }
        let verdict = match outcome {
            Ok(result) => Verdict::Done(result),
            Err(Error::Elsewhere) => Verdict::Failed(u64::MAX, None),
            Err(error) => Verdict::Failed(self.failed.load(Ordering::Relaxed) as u64, Some((&error).into())),
        };
        let all: Vec<Verdict<T>> = self.exchange("the end of a call", &verdict)?;
        let mut results = Vec::with_capacity(all.len());
        let mut first: Option<(u64, WireError)> = None;
        for verdict in all {
            match verdict {
                Verdict::Done(result) => results.push(result),
                Verdict::Failed(position, Some(error))
                    if first.as_ref().is_none_or(|(before, _)| position < *before) =>
                {
                    first = Some((position, error));
                }
                Verdict::Failed(..) => {}
            }
        }
        if results.len() == self.world.size() {
            return Ok(results);
        }
        self.drain(call)?;
        Err(first.map_or(Error::Elsewhere, |(_, error)| error.into()))
    }

    /// Checks that the outputs of the last stage can go to other processes.
    pub(crate) fn can_share(outputs: &[PackedValue]) -> Result<()> {
        outputs.iter().try_for_each(|output| Form::of(output, None, &[]).map(drop).map_err(Error::Output))
    }

    /// Gives the outputs of the last stage to all processes of the replica.
    pub(crate) fn share_outputs(
        &self,
        call: u64,
        last_stage: usize,
        micro_batches: usize,
        outputs: Vec<PackedValue>,
    ) -> Result<Vec<PackedValue>> {
        let last = self.process_of(last_stage);
        if last == self.process() {
            for (micro_batch, output) in outputs.iter().enumerate() {
                for process in self.replica().filter(|&process| process != last) {
                    let (value, layouts, spans) = Form::of(output, None, &[]).map_err(Error::Output)?;
                    let envelope =
                        Envelope { call, message: Message::Output { micro_batch, value }, layouts, edge: None };
                    lock(&self.channel).send(process, &envelope, spans).map_err(|error| self.lost(error))?;
                }
            }
            // The caller may change what it gets.
            lock(&self.channel).finish().map_err(|error| self.lost(error))?;
            return Ok(outputs);
        }
        let mut received = Vec::with_capacity(micro_batches);
        let is_output = |message: &Message| matches!(message, Message::Output { .. });
        self.receive(
            call,
            micro_batches,
            is_output,
            || Ok(()),
            |Delivered { envelope, tensors, .. }| {
                if let Message::Output { value, .. } = envelope.message {
                    received.push(value.value(0, tensors, None, &mut Held::new()));
                }
                Ok(())
            },
        )?;
        Ok(received)
    }

    /// Brings tensors of the first replica, each with its stage and name, to the first process. The
    /// others get none.
    /// `what` says in words what they are.
    pub(crate) fn collect(
        &self,
        what: &str,
        own: Result<Vec<(usize, String, Tensor)>>,
    ) -> Result<Vec<(usize, String, Tensor)>> {
        let taken = own.and_then(|own| match self.process() {
            // What is here stays as it is.
            0 => Ok((own, Vec::new(), Vec::new())),
            process if process >= self.world.per_replica() => Ok(Default::default()),
            _ => {
                let (layouts, memory) = spans(own.iter().map(|(_, _, tensor)| tensor), None)?;
                Ok((own, layouts, memory))
            }
        });
        let call = self.calls.load(Ordering::Relaxed);
        self.agree(what, taken.as_ref().map(|_| &()))?;
        let (own, layouts, memory) = taken?;
        if self.world.replica() != 0 {
            return Ok(Vec::new());
        }
        if self.process() != 0 {
            let names = own.into_iter().map(|(stage, name, _)| (stage, name)).collect();
            let envelope = Envelope { call, message: Message::Tensors { names }, layouts, edge: None };
            let sent = {
                let mut channel = lock(&self.channel);
                channel.send(0, &envelope, memory).and_then(|()| channel.finish())
            };
            sent.map_err(|error| self.lost(error))?;
            return Ok(Vec::new());
        }
        let mut all = own;
        let is_wanted = |message: &Message| matches!(message, Message::Tensors { .. });
        self.receive(
            call,
            self.world.per_replica() - 1,
            is_wanted,
            || Ok(()),
            |Delivered { envelope, tensors, .. }| {
                if let Message::Tensors { names } = envelope.message {
                    all.extend(names.into_iter().zip(tensors).map(|((stage, name), tensor)| (stage, name, tensor)));
                }
                Ok(())
            },
        )?;
        Ok(all)
    }

    /// Tells all other processes the same.
    pub(super) fn tell_all(&self, call: u64, message: impl Fn(usize) -> Message) {
        for process in (0..self.world.size()).filter(|&process| process != self.process()) {
            let envelope = Envelope { call, message: message(process), layouts: Vec::new(), edge: None };
            // A connection that is lost is noticed by whoever waits.
            let _ = lock(&self.channel).send(process, &envelope, Vec::new());
        }
    }

    /// Waits until everything is sent. Fails if a sent value was changed meanwhile.
    fn all_sent(&self) -> Result<()> {
        let mut channel = lock(&self.channel);
        channel.finish().map_err(|error| self.lost(error))?;
        match channel.was_changed() {
            false => Ok(()),
            true => Err(Error::Output(CHANGED_ON_ITS_WAY.into())),
        }
    }

    /// Receives what the other processes have sent in a call that failed.
    fn drain(&self, call: u64) -> Result<()> {
        self.tell_all(call, |_| Message::End);
        self.receive(call, self.world.size() - 1, |message| matches!(message, Message::End), || Ok(()), |_| Ok(()))?;
        let mut channel = lock(&self.channel);
        // What is still sent must not be taken for a part of the next call.
        channel.finish().map_err(|error| self.lost(error))?;
        channel.begin(call + 1);
        Ok(())
    }

    /// The processes of this replica.
    pub(crate) fn replica(&self) -> std::ops::Range<usize> {
        let size = self.world.per_replica();
        self.world.replica() * size..(self.world.replica() + 1) * size
    }

    /// Waits for so many messages of a call that are `wanted`, and calls `check` meanwhile.
    pub(super) fn receive(
        &self,
        call: u64,
        mut missing: usize,
        wanted: impl Fn(&Message) -> bool,
        check: impl Fn() -> Result<()>,
        mut take: impl FnMut(Delivered) -> Result<()>,
    ) -> Result<()> {
        let wanted = |envelope: &Envelope| envelope.call == call && wanted(&envelope.message);
        let mut idle = Instant::now();
        while missing > 0 {
            check()?;
            let delivered = lock(&self.channel).poll(wanted).map_err(|error| self.lost(error))?;
            if delivered.is_empty() {
                pause(idle.elapsed());
            } else {
                idle = Instant::now();
            }
            missing = missing.saturating_sub(delivered.len());
            delivered.into_iter().try_for_each(&mut take)?;
        }
        Ok(())
    }

    /// Gives a value to all processes, and returns those of all, by process.
    pub(super) fn exchange<T: Serialize, R: DeserializeOwned>(&self, what: &str, value: &T) -> Result<Vec<R>> {
        let listen = || lock(&self.channel).listen().map_err(|error| self.lost(error));
        self.world.exchange(what, value, listen).map_err(|error| match error {
            // The calls do not match: all processes hear so.
            Error::Setting(_) => error,
            other => self.lost(other),
        })
    }
}
