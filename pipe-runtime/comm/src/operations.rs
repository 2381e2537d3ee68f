//! Handles to what has been started.

use std::time::Instant;

use crate::mpi::Operation;
use crate::{Bytes, BytesMut, CommError, wait};

/// A message that is being sent. If it is dropped, it is sent all the same.
#[derive(Debug)]
#[must_use = "an error is only seen here"]
pub struct Sending<B: Bytes>(pub(crate) Operation<B>);

impl<B: Bytes> Sending<B> {
    /// Whether the message is sent: the buffer is not needed any more. Does not wait.
    ///
    /// # Errors
    ///
    /// If the receiver was lost, or communication has ended. The same error is returned each time.
    pub fn is_done(&mut self) -> Result<bool, CommError> {
        self.0.is_done()
    }

    /// Waits until the message is sent, and drops the buffer.
    ///
    /// # Errors
    ///
    /// If the deadline passes, the receiver was lost, or communication has ended.
    pub fn wait(mut self, deadline: Option<Instant>) -> Result<(), CommError> {
        wait::until(deadline, || self.is_done())
    }
}

/// A message that is being received. If it is dropped before it is done, it is not received, unless
/// it has begun to arrive.
#[derive(Debug)]
#[must_use = "the message is only found here"]
pub struct Receiving<B: BytesMut>(pub(crate) Operation<B>);

impl<B: BytesMut> Receiving<B> {
    /// Whether the message has arrived. Does not wait.
    ///
    /// # Errors
    ///
    /// If the message has another length than the buffer, the sender was lost, or communication
    /// has ended. The same error is returned each time.
    pub fn is_done(&mut self) -> Result<bool, CommError> {
        self.0.is_done()
    }

    /// The message.
    ///
    /// # Panics
    ///
    /// Unless [`is_done`](Self::is_done) has returned true.
    pub fn take(self) -> B {
        self.0.take()
    }

    /// Waits for the message.
    ///
    /// # Errors
    ///
    /// If the deadline passes, the message has another length than the buffer, the sender was
    /// lost, or communication has ended.
    pub fn wait(mut self, deadline: Option<Instant>) -> Result<B, CommError> {
        wait::until(deadline, || self.is_done())?;
        Ok(self.take())
    }
}

/// The bytes of all processes, which are being gathered.
#[derive(Debug)]
#[must_use = "the bytes are only found here"]
pub struct Gathering {
    pub(crate) operation: Operation<(Vec<u8>, Vec<u8>)>,
    /// The number of bytes of each process.
    pub(crate) length: usize,
    /// The number of processes.
    pub(crate) size: usize,
}

impl Gathering {
    /// Whether all bytes have arrived. Does not wait.
    ///
    /// # Errors
    ///
    /// If a process was lost, or communication has ended. The same error is returned each time.
    pub fn is_done(&mut self) -> Result<bool, CommError> {
        self.operation.is_done()
    }

    /// Waits for the bytes of all processes, in the order of their ranks.
    ///
    /// # Errors
    ///
    /// If the deadline passes, a process was lost, or communication has ended.
    pub fn wait(mut self, deadline: Option<Instant>) -> Result<Vec<Vec<u8>>, CommError> {
        wait::until(deadline, || self.is_done())?;
        let Self { operation, length, size } = self;
        let (_, all) = operation.take();
        Ok((0..size).map(|rank| all[rank * length..(rank + 1) * length].to_vec()).collect())
    }
}

/// The bytes of one process, which are being given to all.
#[derive(Debug)]
#[must_use = "the bytes are only found here"]
pub struct Broadcasting(pub(crate) Operation<Vec<u8>>);

impl Broadcasting {
    /// Whether the bytes are here. On the process that gives them: whether they are sent. Does not
    /// wait.
    ///
    /// # Errors
    ///
    /// If a process was lost, or communication has ended. The same error is returned each time.
    pub fn is_done(&mut self) -> Result<bool, CommError> {
        self.0.is_done()
    }

    /// Waits for the bytes.
    ///
    /// # Errors
    ///
    /// If the deadline passes, a process was lost, or communication has ended.
    pub fn wait(mut self, deadline: Option<Instant>) -> Result<Vec<u8>, CommError> {
        wait::until(deadline, || self.is_done())?;
        Ok(self.0.take())
    }
}
