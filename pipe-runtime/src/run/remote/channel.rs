//! The messages of one pipeline between this process and the others.

use std::collections::VecDeque;
use std::time::Instant;

use pipe_comm::{Comm, Receiving, Sending, pause};
use tch::Tensor;

use super::wire::Envelope;
use crate::error::{Error, Result};
use crate::torch::{ReceivedSpan, SentSpan, Unchanged};
use crate::world::World;

/// The size of the part of an envelope that is always sent, in bytes. Most envelopes fit.
const HEAD: usize = 512;

/// The messages under way.
pub(super) struct Channel {
    comm: Comm,
    tag: u16,
    outgoing: Vec<Outgoing>,
    /// By process; `None` for this one.
    peers: Vec<Option<Peer>>,
    /// Messages that arrived while nobody asked for them.
    kept: Vec<Delivered>,
    /// Whether a tensor has been changed while it was sent.
    was_changed: bool,
    world: World,
}

/// A send that is not complete.
enum Outgoing {
    Bytes(Sending<Vec<u8>>),
    Span(Sending<SentSpan>, Unchanged),
}

/// What arrives from one process.
struct Peer {
    /// The next part of an envelope. It is posted once everything before it is: messages arrive in
    /// the order in which they were sent.
    next: Option<Part>,
    /// The messages of which only tensors are under way, in order.
    messages: VecDeque<(Envelope, Vec<Receiving<ReceivedSpan>>)>,
}

/// A part of an envelope that is under way.
enum Part {
    Head(Receiving<Vec<u8>>),
    /// The rest of an envelope that begins with these bytes.
    Rest(Vec<u8>, Receiving<Vec<u8>>),
}

/// A message that has arrived.
pub(super) struct Delivered {
    pub(super) from: usize,
    pub(super) envelope: Envelope,
    pub(super) tensors: Vec<Tensor>,
}

impl Channel {
    pub(super) fn new(world: &World, tag: u16) -> Result<Self> {
        let comm = world.comm();
        let peer = |process| match process == comm.rank() {
            true => Ok(None),
            false => Ok(Some(Peer { next: Some(head(comm, tag, process)?), messages: VecDeque::new() })),
        };
        let peers = (0..comm.size()).map(peer).collect::<Result<_>>()?;
        let comm = comm.clone();
        Ok(Self { comm, tag, outgoing: Vec::new(), peers, kept: Vec::new(), was_changed: false, world: world.clone() })
    }

    pub(super) fn send(&mut self, to: usize, envelope: &Envelope, spans: Vec<SentSpan>) -> Result<()> {
        let text = postcard::to_stdvec(envelope).map_err(|error| Error::Connection(error.to_string()))?;
        let mut head = (text.len() as u64).to_le_bytes().to_vec();
        let (start, rest) = text.split_at(text.len().min(HEAD - head.len()));
        head.extend(start);
        head.resize(HEAD, 0);
        self.outgoing.push(Outgoing::Bytes(self.comm.send(to, self.tag, head)?));
        if !rest.is_empty() {
            self.outgoing.push(Outgoing::Bytes(self.comm.send(to, self.tag, rest.to_vec())?));
        }
        for span in spans {
            let unchanged = span.unchanged();
            self.outgoing.push(Outgoing::Span(self.comm.send(to, self.tag, span)?, unchanged));
        }
        self.clean()
    }

    /// Drops the sends that are complete.
    fn clean(&mut self) -> Result<()> {
        let mut index = 0;
        while let Some(outgoing) = self.outgoing.get_mut(index) {
            let done = match outgoing {
                Outgoing::Bytes(sending) => sending.is_done()?,
                Outgoing::Span(sending, unchanged) => {
                    let done = sending.is_done()?;
                    self.was_changed |= done && !unchanged.holds();
                    done
                }
            };
            match done {
                true => drop(self.outgoing.swap_remove(index)),
                false => index += 1,
            }
        }
        Ok(())
    }

    /// Waits until everything is sent.
    pub(super) fn finish(&mut self) -> Result<()> {
        let start = Instant::now();
        while !self.outgoing.is_empty() {
            self.clean()?;
            self.listen()?;
            pause(start.elapsed());
        }
        Ok(())
    }

    /// Returns the messages that have arrived completely and are `wanted`, those of each process in
    /// their order. The others are kept: a thread may still poll for a call that is over while the
    /// messages of the next one arrive.
    pub(super) fn poll(&mut self, wanted: impl Fn(&Envelope) -> bool) -> Result<Vec<Delivered>> {
        if !self.kept.iter().any(|delivered| wanted(&delivered.envelope)) {
            self.listen()?;
        }
        let (wanted, kept) = std::mem::take(&mut self.kept).into_iter().partition(|d: &Delivered| wanted(&d.envelope));
        self.kept = kept;
        Ok(wanted)
    }

    /// Drops what is left of calls before this one.
    pub(super) fn begin(&mut self, call: u64) {
        self.was_changed = false;
        self.kept.retain(|delivered| delivered.envelope.call >= call);
    }

    /// Whether a tensor of this call has been changed while it was sent.
    pub(super) fn was_changed(&self) -> bool {
        self.was_changed
    }

    /// Receives what has arrived.
    ///
    /// # Errors
    ///
    /// Fails if a process has given no sign for the time of the deadline.
    pub(super) fn listen(&mut self) -> Result<()> {
        self.keep()?;
        self.world.check_signs()
    }

    /// Receives what has arrived, and keeps it for [`poll`](Self::poll).
    fn keep(&mut self) -> Result<()> {
        self.clean()?;
        for (from, peer) in self.peers.iter_mut().enumerate() {
            let Some(peer) = peer else { continue };
            peer.receive(&self.comm, self.tag, from)?;
            while let Some((_, spans)) = peer.messages.front_mut() {
                let mut all_there = true;
                for span in spans {
                    all_there &= span.is_done()?;
                }
                let Some((envelope, spans)) = all_there.then(|| peer.messages.pop_front()).flatten() else { break };
                let tensors = spans.into_iter().map(|span| span.take().tensor()).collect::<Result<_, _>>()?;
                self.kept.push(Delivered { from, envelope, tensors });
            }
        }
        Ok(())
    }
}

impl Peer {
    /// Receives envelopes as far as they have arrived.
    fn receive(&mut self, comm: &Comm, tag: u16, from: usize) -> Result<()> {
        while let Some(part) = self.next.take() {
            let text = match part {
                Part::Head(mut receiving) => {
                    if !receiving.is_done()? {
                        self.next = Some(Part::Head(receiving));
                        return Ok(());
                    }
                    let head = receiving.take();
                    let (length, start) = head.split_at(size_of::<u64>());
                    let length = length.try_into().map(u64::from_le_bytes).unwrap_or_default() as usize;
                    if length > start.len() {
                        let rest = comm.receive(from, tag, vec![0; length - start.len()])?;
                        self.next = Some(Part::Rest(start.to_vec(), rest));
                        continue;
                    }
                    start[..length].to_vec()
                }
                Part::Rest(start, mut receiving) => {
                    if !receiving.is_done()? {
                        self.next = Some(Part::Rest(start, receiving));
                        return Ok(());
                    }
                    [start, receiving.take()].concat()
                }
            };
            let mut envelope: Envelope = postcard::from_bytes(&text)
                .map_err(|error| Error::Connection(format!("a message of process {from} cannot be read: {error}")))?;
            let spans = std::mem::take(&mut envelope.layouts).into_iter();
            let spans = spans.map(|layout| Ok(comm.receive(from, tag, ReceivedSpan::new(layout)?)?));
            self.messages.push_back((envelope, spans.collect::<Result<_>>()?));
            self.next = Some(head(comm, tag, from)?);
        }
        Ok(())
    }
}

/// Starts to receive the head of an envelope.
fn head(comm: &Comm, tag: u16, from: usize) -> Result<Part> {
    Ok(Part::Head(comm.receive(from, tag, vec![0; HEAD])?))
}
