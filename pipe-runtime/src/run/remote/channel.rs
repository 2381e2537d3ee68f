//! The messages of one pipeline between this process and the others.

use std::collections::VecDeque;
use std::iter;
use std::sync::Arc;
use std::time::Instant;

use pipe_comm::{Comm, Receiving, pause};
use tch::{Device, Tensor};

use super::carrier::{Arrived, Carrier, Hosts, Incoming, Outgoing};
use super::edges::{Edges, Ends};
use super::framing::{self, Begun, HEAD, Read};
use super::wire::Envelope;
use crate::error::{Error, Result};
use crate::torch::{Event, SentSpan, Unchanged};
use crate::world::World;

/// The messages under way.
pub(super) struct Channel {
    hosts: Hosts,
    edges: Edges,
    /// The sends that are not complete, and whether what they send may not change meanwhile.
    outgoing: Vec<(Box<dyn Outgoing>, Option<Unchanged>)>,
    /// By process; `None` for this one.
    peers: Vec<Option<Peer>>,
    /// Messages that arrived while nobody asked for them.
    kept: Vec<Delivered>,
    /// The events after which messages on accelerators are complete.
    arriving: VecDeque<Arc<Event>>,
    /// Whether a tensor has been changed while it was sent.
    was_changed: bool,
    world: World,
}

/// What arrives from one process.
struct Peer {
    /// The next part of an envelope. It is posted once everything before it is: messages arrive in
    /// the order in which they were sent.
    next: Option<Part>,
    /// The messages of which only tensors are under way, in order.
    messages: VecDeque<(Envelope, Vec<Box<dyn Incoming>>)>,
}

/// A part of an envelope that is under way.
struct Part {
    /// What is here of the envelope; nothing if the part is its head.
    begun: Option<Begun>,
    receiving: Receiving<Vec<u8>>,
}

/// A message that has arrived.
pub(super) struct Delivered {
    pub(super) from: usize,
    pub(super) envelope: Envelope,
    pub(super) tensors: Vec<Tensor>,
    /// The event after which they are complete, if some are on an accelerator.
    pub(super) ready: Option<Arc<Event>>,
}

impl Channel {
    pub(super) fn new(world: &World, tag: u16, edges: Edges) -> Result<Self> {
        let comm = world.comm();
        let peer = |process| match process == comm.rank() {
            true => Ok(None),
            false => Ok(Some(Peer { next: Some(part(comm, tag, process, None)?), messages: VecDeque::new() })),
        };
        let peers = (0..comm.size()).map(peer).collect::<Result<_>>()?;
        Ok(Self {
            hosts: Hosts { comm: comm.clone(), tag },
            edges,
            outgoing: Vec::new(),
            peers,
            kept: Vec::new(),
            arriving: VecDeque::new(),
            was_changed: false,
            world: world.clone(),
        })
    }

    /// The connection with these ends, and its device here, if there is one.
    pub(super) fn edge(&self, ends: Ends) -> Option<(usize, Device)> {
        let number = self.edges.find(ends)?;
        Some((number, self.edges.device(number)?))
    }

    /// Lets this thread's stream use what has arrived on an accelerator.
    pub(super) fn used_here(&self, delivered: &Delivered) -> Result<()> {
        match delivered.envelope.edge.zip(delivered.ready.as_ref()) {
            Some((edge, ready)) => self.edges.used_here(edge, &delivered.tensors, ready),
            None => Ok(()),
        }
    }

    /// Lets this thread's streams write what accelerators have sent from here to a process.
    pub(super) fn after_sends(&self, to: usize) -> Result<()> {
        self.edges.after_sends(to)
    }

    /// Sends an envelope, and the memory that it announces.
    pub(super) fn send(&mut self, to: usize, envelope: &Envelope, spans: Vec<SentSpan>) -> Result<()> {
        let (head, pieces) = framing::write(envelope).map_err(Error::Connection)?;
        let (direct, through_hosts): (Vec<_>, Vec<_>) =
            envelope.layouts.iter().zip(spans).partition(|(layout, _)| envelope.edge.is_some() && layout.is_direct());
        // What goes straight is queued before the receiver hears of it.
        if let Some(edge) = envelope.edge {
            for (_, span) in direct {
                let unchanged = span.unchanged();
                self.outgoing.push((self.edges.carrier(edge)?.send(to, span)?, Some(unchanged)));
            }
        }
        let Hosts { comm, tag } = &self.hosts;
        for part in iter::once(head).chain(pieces) {
            self.outgoing.push((Box::new(comm.send(to, *tag, part)?), None));
        }
        for (_, span) in through_hosts {
            let unchanged = span.unchanged();
            self.outgoing.push((self.hosts.send(to, span)?, Some(unchanged)));
        }
        self.clean()
    }

    /// Drops the sends and the arrivals that are complete.
    fn clean(&mut self) -> Result<()> {
        while let Some(event) = self.arriving.front() {
            if !event.is_past()? {
                break;
            }
            self.arriving.pop_front();
        }
        let mut index = 0;
        while let Some((sending, unchanged)) = self.outgoing.get_mut(index) {
            let done = sending.is_done()?;
            self.was_changed |= done && unchanged.as_ref().is_some_and(|unchanged| !unchanged.holds());
            match done {
                true => drop(self.outgoing.swap_remove(index)),
                false => index += 1,
            }
        }
        Ok(())
    }

    /// Waits until everything is sent, and what has arrived on accelerators is complete: whoever
    /// drops the pipeline after this call ends nothing that is under way.
    pub(super) fn finish(&mut self) -> Result<()> {
        let start = Instant::now();
        while !(self.outgoing.is_empty() && self.arriving.is_empty()) {
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
            peer.receive(&mut self.hosts, &mut self.edges, from)?;
            while let Some((_, incoming)) = peer.messages.front_mut() {
                let mut all_here = true;
                for tensor in incoming {
                    all_here &= tensor.is_here()?;
                }
                let Some((envelope, incoming)) = all_here.then(|| peer.messages.pop_front()).flatten() else { break };
                let (mut tensors, mut ready) = (Vec::with_capacity(incoming.len()), None);
                for arrived in incoming {
                    let Arrived { tensor, ready: own } = arrived.take()?;
                    tensors.push(tensor);
                    // All that are on an accelerator come on one stream, in this order.
                    ready = own.or(ready);
                }
                self.arriving.extend(ready.clone());
                self.kept.push(Delivered { from, envelope, tensors, ready });
            }
        }
        Ok(())
    }
}

impl Peer {
    /// Receives envelopes as far as they have arrived.
    fn receive(&mut self, hosts: &mut Hosts, edges: &mut Edges, from: usize) -> Result<()> {
        let (comm, tag) = (hosts.comm.clone(), hosts.tag);
        while let Some(Part { begun, mut receiving }) = self.next.take() {
            if !receiving.is_done()? {
                self.next = Some(Part { begun, receiving });
                return Ok(());
            }
            let bytes = receiving.take();
            let read = begun.map_or_else(|| framing::read_head(&bytes), |begun| begun.add(&bytes));
            let unreadable =
                |reason| Error::Connection(format!("a message of process {from} cannot be read: {reason}"));
            let mut envelope = match read.map_err(unreadable)? {
                Read::Whole(envelope) => *envelope,
                Read::Begun(begun) => {
                    self.next = Some(part(&comm, tag, from, Some(begun))?);
                    continue;
                }
            };
            let mut incoming = Vec::with_capacity(envelope.layouts.len());
            for layout in std::mem::take(&mut envelope.layouts) {
                let carrier: &mut dyn Carrier = match envelope.edge.filter(|_| layout.is_direct()) {
                    Some(edge) => edges.carrier(edge)?,
                    None => &mut *hosts,
                };
                incoming.push(carrier.receive(from, layout)?);
            }
            self.messages.push_back((envelope, incoming));
            self.next = Some(part(&comm, tag, from, None)?);
        }
        Ok(())
    }
}

/// Starts to receive the next part of an envelope, or the head of another one.
fn part(comm: &Comm, tag: u16, from: usize, begun: Option<Begun>) -> Result<Part> {
    let length = begun.as_ref().map_or(HEAD, Begun::next);
    Ok(Part { begun, receiving: comm.receive(from, tag, vec![0; length])? })
}
