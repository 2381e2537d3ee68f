//! What all processes tell each other, and agree on.

use std::time::Instant;

use pipe_comm::pause;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{PIECE, World};
use crate::error::{Error, Failure, Result};

/// An error that goes to other processes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum WireError {
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

impl World {
    /// Agrees on the outcome of something that all processes have done: returns their results, by
    /// process, or one error for all.
    pub(crate) fn agree<T>(&self, what: &str, own: Result<&T, &Error>) -> Result<Vec<T>>
    where
        T: Serialize + DeserializeOwned,
    {
        let all: Vec<Result<T, WireError>> =
            self.exchange(what, &own.map_err(WireError::from), || self.check_signs())?;
        all.into_iter().map(|result| result.map_err(Error::from)).collect()
    }

    /// Gives a value to all processes, and returns those of all, by process. `what` says in words
    /// what a process does here; `meanwhile` is called all the time while it waits.
    ///
    /// # Errors
    ///
    /// `Error::Setting` on all processes if they do not do the same, and those of `meanwhile`.
    pub(crate) fn exchange<T: Serialize, R: DeserializeOwned>(
        &self,
        what: &str,
        value: &T,
        meanwhile: impl FnMut() -> Result<()>,
    ) -> Result<Vec<R>> {
        let bytes = postcard::to_stdvec(value).map_err(|error| Error::Connection(error.to_string()))?;
        let all = self.exchange_bytes(what, &bytes, meanwhile)?;
        let read = |(process, bytes): (usize, &Vec<u8>)| {
            postcard::from_bytes(bytes).map_err(|error| unreadable(process, error))
        };
        all.iter().enumerate().map(read).collect()
    }

    /// Does what [`exchange`](Self::exchange) does, with bytes.
    pub(super) fn exchange_bytes(
        &self,
        what: &str,
        bytes: &[u8],
        mut meanwhile: impl FnMut() -> Result<()>,
    ) -> Result<Vec<Vec<u8>>> {
        self.check_signs().inspect_err(|_| self.give_up("another process has left"))?;
        let mut own = postcard::to_stdvec(what).map_err(|error| Error::Connection(error.to_string()))?;
        own.extend(bytes);
        let lengths = self.gather((own.len() as u64).to_le_bytes().to_vec(), &mut meanwhile)?;
        let lengths = read_lengths(&lengths)?;
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let mut all = vec![Vec::new(); lengths.len()];
        for start in (0..longest).step_by(PIECE) {
            let end = longest.min(start + PIECE);
            // What follows a process's bytes, up to the longest, is padding.
            let mut piece = own[start.min(own.len())..end.min(own.len())].to_vec();
            piece.resize(end - start, 0);
            let pieces = self.gather(piece, &mut meanwhile)?;
            all.iter_mut().zip(pieces).for_each(|(said, piece): (&mut Vec<u8>, _)| said.extend(piece));
        }
        let mut values = Vec::with_capacity(all.len());
        let mut names: Vec<String> = Vec::with_capacity(all.len());
        for (process, (bytes, length)) in all.iter().zip(lengths).enumerate() {
            let (name, value) = read_named(bytes, length).map_err(|error| unreadable(process, error))?;
            names.push(name);
            values.push(value.to_vec());
        }
        match names.iter().position(|name| *name != names[0]) {
            None => Ok(values),
            Some(other) => Err(Error::Setting(format!(
                "the calls of the processes do not match: process 0 calls {}, and process {other} calls {}",
                names[0], names[other]
            ))),
        }
    }

    /// Gathers as many bytes from each process.
    fn gather(&self, bytes: Vec<u8>, meanwhile: &mut dyn FnMut() -> Result<()>) -> Result<Vec<Vec<u8>>> {
        let mut gathering = self.comm.all_gather(bytes)?;
        // A gathering that is left halfway would be taken for the next one.
        let waited = wait(|| Ok(gathering.is_done()?), meanwhile);
        waited.inspect_err(|error| self.give_up(error))?;
        Ok(gathering.wait(None)?)
    }
}

/// Waits until something is done, for as long as `meanwhile` does not fail.
pub(super) fn wait(
    mut is_done: impl FnMut() -> Result<bool, Error>,
    mut meanwhile: impl FnMut() -> Result<()>,
) -> Result<()> {
    let start = Instant::now();
    while !is_done()? {
        meanwhile()?;
        pause(start.elapsed());
    }
    Ok(())
}

/// The greatest number of bytes that a process gives at once.
const LONGEST: u64 = 1 << 31;

/// How many bytes each process is going to give.
fn read_lengths(all: &[Vec<u8>]) -> Result<Vec<usize>> {
    let read = |(process, bytes): (usize, &Vec<u8>)| match bytes.as_slice().try_into().map(u64::from_le_bytes) {
        Ok(length) if length <= LONGEST => Ok(length as usize),
        Ok(length) => {
            Err(Error::Connection(format!("process {process} says {length} bytes at once, of at most {LONGEST}")))
        }
        Err(_) => Err(Error::Connection(format!("what process {process} says has no length"))),
    };
    all.iter().enumerate().map(read).collect()
}

/// What a process does, in words, and the value that it gives, from its first `length` bytes.
fn read_named(bytes: &[u8], length: usize) -> Result<(String, &[u8]), postcard::Error> {
    let bytes = bytes.get(..length).ok_or(postcard::Error::DeserializeUnexpectedEnd)?;
    postcard::take_from_bytes(bytes)
}

/// Reads what a process says, as [`World::exchange`] does.
#[cfg(fuzzing)]
pub(crate) fn read_said<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    let (length, rest) = bytes.split_at(bytes.len().min(size_of::<u64>()));
    let lengths = read_lengths(&[length.to_vec()])?;
    let (_, value) = read_named(rest, lengths[0]).map_err(|error| unreadable(0, error))?;
    postcard::from_bytes(value).map_err(|error| unreadable(0, error))
}

fn unreadable(process: usize, error: postcard::Error) -> Error {
    Error::Connection(format!("what process {process} says cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_says_too_much_at_once_is_an_error() {
        let lengths = |length: u64| read_lengths(&[8_u64.to_le_bytes().to_vec(), length.to_le_bytes().to_vec()]);
        assert_eq!(lengths(3).unwrap(), [8, 3]);
        let error = lengths(u64::MAX).unwrap_err().to_string();
        assert!(error.contains("process 1 says 18446744073709551615 bytes at once"), "{error}");
        assert!(read_lengths(&[vec![1, 2]]).is_err());
    }

    #[test]
    fn what_is_shorter_than_it_says_is_an_error() {
        let bytes = postcard::to_stdvec("a step").unwrap();
        assert_eq!(read_named(&bytes, bytes.len()).unwrap().0, "a step");
        assert!(read_named(&bytes, bytes.len() + 1).is_err());
        assert!(read_named(&bytes, bytes.len() - 1).is_err());
    }
}
