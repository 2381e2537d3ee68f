//! What carries the memory of tensors from process to process: MPI from host to host, NCCL from
//! accelerator to accelerator.

use std::sync::Arc;

use pipe_comm::{Comm, Receiving, Sending};
use tch::{Device, Tensor};

use crate::error::Result;
use crate::torch::{Event, Layout, ReceivedSpan, SentSpan};

/// Carries the memory of tensors to and from other processes. What one process sends to another
/// arrives in the order in which it was sent. Nothing here waits for another process.
pub(super) trait Carrier {
    /// Starts to send.
    fn send(&mut self, to: usize, span: SentSpan) -> Result<Box<dyn Outgoing>>;

    /// Starts to receive a tensor that `from` has announced.
    fn receive(&mut self, from: usize, layout: Layout) -> Result<Box<dyn Incoming>>;
}

/// A send that may not be complete.
pub(super) trait Outgoing: Send {
    fn is_done(&mut self) -> Result<bool>;
}

/// A tensor that may not be here yet.
pub(super) trait Incoming: Send {
    /// Whether it can be taken.
    fn is_here(&mut self) -> Result<bool>;

    fn take(self: Box<Self>) -> Result<Arrived>;
}

/// A tensor that has arrived.
pub(super) struct Arrived {
    pub(super) tensor: Tensor,
    /// The event after which it is complete, if it is on an accelerator.
    pub(super) ready: Option<Arc<Event>>,
}

/// Carries memory from host to host.
pub(super) struct Hosts {
    pub(super) comm: Comm,
    pub(super) tag: u16,
}

impl Carrier for Hosts {
    fn send(&mut self, to: usize, span: SentSpan) -> Result<Box<dyn Outgoing>> {
        Ok(Box::new(self.comm.send(to, self.tag, span)?))
    }

    fn receive(&mut self, from: usize, layout: Layout) -> Result<Box<dyn Incoming>> {
        Ok(Box::new(self.comm.receive(from, self.tag, ReceivedSpan::new(layout, Device::Cpu)?)?))
    }
}

impl Outgoing for Sending<SentSpan> {
    fn is_done(&mut self) -> Result<bool> {
        Ok(self.is_done()?)
    }
}

impl Outgoing for Sending<Vec<u8>> {
    fn is_done(&mut self) -> Result<bool> {
        Ok(self.is_done()?)
    }
}

impl Incoming for Receiving<ReceivedSpan> {
    fn is_here(&mut self) -> Result<bool> {
        Ok(self.is_done()?)
    }

    fn take(self: Box<Self>) -> Result<Arrived> {
        Ok(Arrived { tensor: (*self).take().tensor()?, ready: None })
    }
}
