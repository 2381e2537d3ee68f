//! The agreements of all processes with which a call begins and ends.

use std::sync::atomic::Ordering;
use std::time::Instant;

use pipe_comm::pause;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::Remote;
use super::channel::Delivered;
use super::wire::{Envelope, Form, Message, spans};
use crate::error::{Error, Failure, Result};
use crate::flow::PackedValue;
use crate::lock::lock;

/// What a process says at the beginning of a call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Opening {
    /// What is called, in words.
    pub(crate) what: String,
    /// The number that the call draws; that of the first process counts.
    pub(crate) seed: u64,
    /// The rows of each micro-batch; those of the process with the first stage count.
    pub(crate) rows: Vec<i64>,
}

/// What a process says at the end of a call.
#[derive(Debug, Serialize, Deserialize)]
enum Verdict<T> {
    Done(T),
    /// The position of the failed step, and the error unless it is another process's.
    Failed(u64, Option<WireError>),
}

/// An error that goes to other processes.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum WireError {
    Setting(String),
    Input(String),
    Output(String),
    File(String),
    Failed(Failure),
    Connection(String),
}

impl From<&Error> for WireError {
    fn from(error: &Error) -> Self {
        match error {
            Error::Setting(words) => Self::Setting(words.clone()),
            Error::Input(words) => Self::Input(words.clone()),
            Error::File(words) => Self::File(words.clone()),
            Error::Failed(failure) => Self::Failed(failure.clone()),
            Error::Connection(words) => Self::Connection(words.clone()),
            other => Self::Output(other.to_string()),
        }
    }
}

impl From<WireError> for Error {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Setting(words) => Self::Setting(words),
            WireError::Input(words) => Self::Input(words),
            WireError::Output(words) => Self::Output(words),
            WireError::File(words) => Self::File(words),
            WireError::Failed(failure) => Self::Failed(failure),
            WireError::Connection(words) => Self::Connection(words),
        }
    }
}

impl Remote {
    /// Begins a call: all processes say what they call. Returns the number of the call, with the
    /// seed of the first process and the rows of the one with the first stage.
    ///
    /// # Errors
    ///
    /// Fails on all processes if one of them could not prepare the call, or if they do not call the
    /// same.
    pub(crate) fn open(&self, opening: Result<Opening, &Error>) -> Result<(u64, Opening)> {
        self.check()?;
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        self.failed.store(usize::MAX, Ordering::Relaxed);
        lock(&self.channel).begin(call);
        let own = opening.map_err(WireError::from);
        let all: Vec<(u64, u64, Result<Opening, WireError>)> = self.exchange(&(call, self.model, own))?;
        let mut openings = Vec::with_capacity(all.len());
        for (process, (number, model, opening)) in all.into_iter().enumerate() {
            if model != self.model {
                return Err(Error::Setting(format!(
                    "processes {} and {process} have built different pipelines: the model, its devices and its settings must be the same",
                    self.process()
                )));
            }
            if number != call {
                return Err(Error::Connection(format!(
                    "process {} makes call {call} of this pipeline, and process {process} makes call {number}: all processes make the same calls",
                    self.process()
                )));
            }
            openings.push(opening?);
        }
        let first = &openings[0];
        for (process, other) in openings.iter().enumerate() {
            if other.what != first.what {
                return Err(Error::Setting(format!(
                    "the calls of the processes do not match: process 0 calls {}, and process {process} calls {}",
                    first.what, other.what
                )));
            }
        }
        let rows = openings[self.process_of(0)].rows.clone();
        Ok((call, Opening { rows, ..openings.swap_remove(0) }))
    }

    /// Ends a call: returns the results of all processes if they have succeeded, otherwise the
    /// error of the step that is first in the order, on all of them.
    pub(crate) fn close<T>(&self, call: u64, outcome: Result<T>) -> Result<Vec<T>>
    where
        T: Serialize + for<'de> Deserialize<'de>,
    {
        self.check()?;
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
        let all: Vec<Verdict<T>> = self.exchange(&verdict)?;
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
        outputs.iter().try_for_each(|output| Form::of(output).map(drop).map_err(Error::Output))
    }

    /// Gives the outputs of the last stage to all processes.
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
                for process in (0..self.world.size()).filter(|&process| process != last) {
                    let (value, layouts, spans) = Form::of(output).map_err(Error::Output)?;
                    let envelope = Envelope { call, message: Message::Output { micro_batch, value }, layouts };
                    lock(&self.channel).send(process, &envelope, spans).map_err(|error| self.lost(error))?;
                }
            }
            // The caller may change what it gets.
            lock(&self.channel).finish().map_err(|error| self.lost(error))?;
            return Ok(outputs);
        }
        let wanted = |envelope: &Envelope| envelope.call == call && matches!(envelope.message, Message::Output { .. });
        let mut received = Vec::with_capacity(micro_batches);
        let mut idle = Instant::now();
        while received.len() < micro_batches {
            let delivered = lock(&self.channel).poll(wanted).map_err(|error| self.lost(error))?;
            if delivered.is_empty() {
                pause(idle.elapsed());
            } else {
                idle = Instant::now();
            }
            for Delivered { envelope, tensors, .. } in delivered {
                if let Message::Output { value, .. } = envelope.message {
                    received.push(value.value(tensors));
                }
            }
        }
        Ok(received)
    }

    /// Brings tensors, each with its stage and name, to the first process. The others get none.
    pub(crate) fn collect(&self, own: Vec<(usize, String, Tensor)>) -> Result<Vec<(usize, String, Tensor)>> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        if self.process() != 0 {
            // The first process waits for the message, whatever is in it.
            let taken = spans(own.iter().map(|(_, _, tensor)| tensor)).map_err(Error::from);
            let (names, layouts, memory, outcome) = match taken {
                Ok((layouts, memory)) => {
                    (own.into_iter().map(|(stage, name, _)| (stage, name)).collect(), layouts, memory, Ok(()))
                }
                Err(error) => (Vec::new(), Vec::new(), Vec::new(), Err(error)),
            };
            let envelope = Envelope { call, message: Message::Tensors { names }, layouts };
            let sent = {
                let mut channel = lock(&self.channel);
                channel.send(0, &envelope, memory).and_then(|()| channel.finish())
            };
            sent.map_err(|error| self.lost(error))?;
            return self.gather(outcome.as_ref()).map(|_| Vec::new());
        }
        let mut all = own;
        let wanted = |envelope: &Envelope| envelope.call == call && matches!(envelope.message, Message::Tensors { .. });
        let mut missing = self.world.size() - 1;
        let mut idle = Instant::now();
        while missing > 0 {
            let delivered = lock(&self.channel).poll(wanted).map_err(|error| self.lost(error))?;
            if delivered.is_empty() {
                pause(idle.elapsed());
            } else {
                idle = Instant::now();
            }
            for Delivered { envelope, tensors, .. } in delivered {
                if let Message::Tensors { names } = envelope.message {
                    all.extend(names.into_iter().zip(tensors).map(|((stage, name), tensor)| (stage, name, tensor)));
                    missing -= 1;
                }
            }
        }
        // No process sends more before this one has everything.
        self.gather(Ok(&()))?;
        Ok(all)
    }

    /// Tells all other processes the same.
    pub(super) fn tell_all(&self, call: u64, message: impl Fn(usize) -> Message) {
        for process in (0..self.world.size()).filter(|&process| process != self.process()) {
            let envelope = Envelope { call, message: message(process), layouts: Vec::new() };
            // A connection that is lost is noticed by whoever waits.
            let _ = lock(&self.channel).send(process, &envelope, Vec::new());
        }
    }

    /// Receives what the other processes have sent in a call that failed.
    fn drain(&self, call: u64) -> Result<()> {
        self.tell_all(call, |_| Message::End);
        let mut ended = vec![false; self.world.size()];
        ended[self.process()] = true;
        let mut idle = Instant::now();
        while ended.contains(&false) {
            let delivered =
                lock(&self.channel).poll(|envelope| envelope.call == call).map_err(|error| self.lost(error))?;
            if delivered.is_empty() {
                pause(idle.elapsed());
            } else {
                idle = Instant::now();
            }
            for Delivered { from, envelope, .. } in delivered {
                ended[from] |= envelope.call == call && matches!(envelope.message, Message::End);
            }
        }
        Ok(())
    }

    /// Gathers the results of all processes outside of a call, or one error for all.
    pub(crate) fn gather<T>(&self, own: Result<&T, &Error>) -> Result<Vec<T>>
    where
        T: Serialize + for<'de> Deserialize<'de>,
    {
        self.check()?;
        let all: Vec<Result<T, WireError>> = self.exchange(&own.map_err(WireError::from))?;
        all.into_iter().map(|result| result.map_err(Error::from)).collect()
    }

    /// Gives a value to all processes, and returns those of all, by process.
    fn exchange<T: Serialize, R: for<'de> Deserialize<'de>>(&self, value: &T) -> Result<Vec<R>> {
        let mut bytes = postcard::to_stdvec(value).map_err(|error| Error::Connection(error.to_string()))?;
        let lengths = self.gather_bytes((bytes.len() as u64).to_le_bytes().to_vec())?;
        let length = |bytes: &Vec<u8>| bytes.as_slice().try_into().map_or(0, u64::from_le_bytes) as usize;
        bytes.resize(lengths.iter().map(length).max().unwrap_or(0), 0);
        let all = self.gather_bytes(bytes)?;
        let read = |(process, bytes): (usize, &Vec<u8>)| {
            // What follows the value is padding.
            postcard::take_from_bytes(bytes).map(|(value, _)| value).map_err(|error| {
                self.lost(Error::Connection(format!("what process {process} says cannot be read: {error}")))
            })
        };
        all.iter().enumerate().map(read).collect()
    }

    /// Gathers as many bytes from each process. It waits for as long as all of them give signs.
    fn gather_bytes(&self, bytes: Vec<u8>) -> Result<Vec<Vec<u8>>> {
        let gathered = || -> Result<Vec<Vec<u8>>> {
            let mut gathering = self.world.comm().all_gather(bytes)?;
            let start = Instant::now();
            while !gathering.is_done()? {
                lock(&self.channel).listen()?;
                pause(start.elapsed());
            }
            Ok(gathering.wait(None)?)
        };
        gathered().map_err(|error| self.lost(error))
    }
}
