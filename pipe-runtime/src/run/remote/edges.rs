//! Connections from accelerator to accelerator, over NCCL.
//!
//! Each has one direction, a communicator and a stream of its own, so that none waits for another
//! one. The sender queues the send, and announces the tensor by MPI; the receiver then queues the
//! receive. Both are made when the pipeline is built, in one order on all processes, and used
//! once: NCCL connects two accelerators at their first message, which waits for both.
//!
//! Work that waits for a lost process never ends on an accelerator, and a thread that waits for the
//! accelerator would wait with it. So the thread that looks for signs of life aborts the
//! communicators.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use pipe_comm::CommError;
use pipe_comm::nccl::{Communicator, Nccl};
use tch::{Device, Kind, Tensor};

use super::carrier::{Arrived, Carrier, Incoming, Outgoing};
use crate::error::{Error, Result};
use crate::lock::lock;
use crate::run::device_streams::LentStreams;
use crate::torch::{Event, Layout, ReceivedSpan, SentSpan, Stream, StreamHandle};
use crate::world::{Watched, World};

/// A process and a device of it.
pub(super) type Site = (usize, Device);

/// The connections between accelerators that a pipeline has, with the same numbers on all
/// processes.
#[derive(Default)]
pub(super) struct Edges {
    ends: Vec<Ends>,
    /// Those that begin or end here.
    own: HashMap<usize, Edge>,
    _lent: LentStreams,
}

/// The ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) from: Site,
    pub(super) to: Site,
}

/// One end of a connection.
struct Edge {
    device: Device,
    link: Arc<Link>,
}

struct Link {
    world: World,
    stream: Stream,
    handle: StreamHandle,
    /// `None` once it is aborted.
    open: Mutex<Option<Communicator>>,
}

/// The number of the sender and of the receiver in a communicator.
const SENDER: usize = 0;
const RECEIVER: usize = 1;

impl Edges {
    /// Connects the accelerators of all `wanted` ends that can be. All processes call this
    /// together. What is not connected goes through the hosts.
    pub(super) fn connect(world: &World, wanted: &[Ends]) -> Result<Self> {
        if wanted.is_empty() {
            return Ok(Self::default());
        }
        let me = world.process();
        let nccl = Nccl::open().map_err(Error::from);
        let offer = nccl.as_ref().map(|nccl| {
            let sites = wanted.iter().map(|ends| format!("{ends:?}")).collect::<Vec<_>>().join(" ");
            (sites, nccl.as_ref().map(|nccl| offer(nccl, me, wanted)))
        });
        let offers = world.agree("the accelerators of a pipeline", offer.as_ref().map_err(|error| *error))?;
        if let Some(other) = offers.iter().position(|(sites, _)| *sites != offers[0].0) {
            return Err(Error::Setting(format!(
                "processes 0 and {other} have built different pipelines: the devices of the stages must be the same"
            )));
        }
        let offers: Vec<Offer> = offers.into_iter().map(|(_, offer)| offer).collect();
        let ends: Vec<_> = wanted.iter().copied().filter(|ends| can_connect(&offers, ends)).collect();
        if ends.is_empty() {
            return Ok(Self::default());
        }
        let nccl = nccl?;

        let name = |(number, nccl): (usize, &Nccl)| Ok((number, nccl.unique_id()?));
        let from_here = ends.iter().enumerate().filter(|(_, ends)| ends.from.0 == me);
        let names: Result<Vec<_>> = from_here.filter_map(|(number, _)| Some(name((number, nccl.as_ref()?)))).collect();
        let names: HashMap<usize, Vec<u8>> =
            world.agree("the names of connections", names.as_ref())?.into_iter().flatten().collect();
        let (mut own, mut lent) = (HashMap::new(), LentStreams::default());
        for (number, &ends) in ends.iter().enumerate().filter(|(_, ends)| ends.from.0 == me || ends.to.0 == me) {
            let Some((nccl, name)) = nccl.as_ref().zip(names.get(&number)) else { continue };
            let edge = Edge::connect(world, nccl, name, ends, &mut lent);
            // The other process waits for this one.
            own.insert(number, edge.inspect_err(|error| world.give_up(error))?);
        }
        Ok(Self { ends, own, _lent: lent })
    }

    /// The number of the connection with these ends.
    pub(super) fn find(&self, ends: Ends) -> Option<usize> {
        self.ends.iter().position(|known| *known == ends)
    }

    /// The device here of the connection with this number.
    pub(super) fn device(&self, number: usize) -> Option<Device> {
        self.own.get(&number).map(|edge| edge.device)
    }

    /// Lets this thread's stream use tensors that have arrived on the connection.
    pub(super) fn used_here(&self, number: usize, tensors: &[Tensor], ready: &Event) -> Result<()> {
        let Some(edge) = self.own.get(&number) else { return Ok(()) };
        let current = edge.link.stream.current()?;
        current.wait(ready)?;
        Ok(tensors.iter().try_for_each(|tensor| current.uses(tensor))?)
    }

    /// Lets this thread's streams write what was sent from here to a process.
    pub(super) fn after_sends(&self, to: usize) -> Result<()> {
        for (number, edge) in &self.own {
            let stream = edge.link.stream;
            if self.ends[*number].to.0 == to {
                stream.current()?.wait(&stream.record()?)?;
            }
        }
        Ok(())
    }

    pub(super) fn carrier(&mut self, number: usize) -> Result<&mut dyn Carrier> {
        let unknown = || Error::Connection(format!("a message names connection {number}, which does not end here"));
        self.own.get_mut(&number).map(|edge| edge as &mut dyn Carrier).ok_or_else(unknown)
    }
}

/// What a process has: NCCL's version, and for each of its devices the number that no other has.
type Offer = Option<(i32, Vec<(usize, [u8; 16])>)>;

fn offer(nccl: &Nccl, me: usize, wanted: &[Ends]) -> (i32, Vec<(usize, [u8; 16])>) {
    let sites = wanted.iter().flat_map(|ends| [ends.from, ends.to]);
    let mut devices: Vec<_> = sites.filter(|site| site.0 == me).filter_map(ordinal).collect();
    devices.sort_unstable();
    devices.dedup();
    let known = devices.into_iter().filter_map(|device| Some((device, nccl.device_id(device)?)));
    (nccl.version(), known.collect())
}

fn ordinal((_, device): Site) -> Option<usize> {
    if let Device::Cuda(ordinal) = device { Some(ordinal) } else { None }
}

/// Whether both processes have the same NCCL, and each a device of its own: NCCL refuses two
/// processes on one.
fn can_connect(offers: &[Offer], ends: &Ends) -> bool {
    let found = |site: Site| {
        let (version, devices) = offers[site.0].as_ref()?;
        let device = ordinal(site)?;
        Some((*version, devices.iter().find(|(number, _)| *number == device)?.1))
    };
    match (found(ends.from), found(ends.to)) {
        (Some((version, device)), Some((other, there))) => version == other && device != there,
        _ => false,
    }
}

impl Edge {
    fn connect(world: &World, nccl: &Nccl, name: &[u8], ends: Ends, lent: &mut LentStreams) -> Result<Self> {
        let (rank, device) = match ends.from.0 == world.process() {
            true => (SENDER, ends.from.1),
            false => (RECEIVER, ends.to.1),
        };
        let stream = lent.borrow(device)?;
        let handle = stream.handle()?;
        let communicator = {
            let _current = stream.enter()?;
            let mut communicator = nccl.connect(name, rank, 2)?;
            world.wait(|| communicator.is_ready())?;
            communicator
        };
        let link = Arc::new(Link { world: world.clone(), stream, handle, open: Mutex::new(Some(communicator)) });
        let watched: Arc<dyn Watched> = Arc::<Link>::clone(&link);
        world.watch(&watched);
        let mut edge = Self { device, link };
        edge.try_out(rank, ends)?;
        Ok(edge)
    }

    /// Sends one number.
    fn try_out(&mut self, rank: usize, ends: Ends) -> Result<()> {
        let number = Tensor::f_zeros([1], (Kind::Uint8, self.device))?;
        let (layout, span) = SentSpan::new(&number, Some(self.device))?;
        let world = self.link.world.clone();
        if rank == SENDER {
            let mut sending = self.send(ends.to.0, span)?;
            return world.wait(|| sending.is_done());
        }
        let arrived = self.receive(ends.from.0, layout)?.take()?;
        world.wait(|| arrived.ready.as_ref().map_or(Ok(true), |event| event.is_past()))
    }
}

impl Carrier for Edge {
    fn send(&mut self, _: usize, span: SentSpan) -> Result<Box<dyn Outgoing>> {
        let Link { stream, handle, .. } = &*self.link;
        // What this thread has queued makes the tensor.
        stream.wait(&stream.current()?.record()?)?;
        if !span.is_empty() {
            let memory = span.on(stream)?;
            self.link.queue(|communicator| communicator.send(RECEIVER, &memory, handle))?;
        }
        Ok(Box::new(stream.record()?))
    }

    fn receive(&mut self, _: usize, layout: Layout) -> Result<Box<dyn Incoming>> {
        let Link { stream, handle, .. } = &*self.link;
        // The memory is one of the stream's, which has used it before if anybody has. The allocator
        // may wait for the device.
        let _current = stream.enter()?;
        let mut span = ReceivedSpan::new(layout, self.device)?;
        if !span.is_empty() {
            let memory = span.on(stream)?;
            self.link.queue(|communicator| communicator.receive(SENDER, &memory, handle))?;
        }
        let tensor = span.tensor()?;
        Ok(Box::new(Arrived { tensor, ready: Some(Arc::new(stream.record()?)) }))
    }
}

impl Outgoing for Event {
    fn is_done(&mut self) -> Result<bool> {
        Ok(self.is_past()?)
    }
}

/// On an accelerator, a tensor is here as soon as its receive is queued.
impl Incoming for Arrived {
    fn is_here(&mut self) -> Result<bool> {
        Ok(true)
    }

    fn take(self: Box<Self>) -> Result<Arrived> {
        Ok(*self)
    }
}

impl Link {
    /// Queues a send or a receive on the connection, and waits until it is queued. If it fails, the
    /// connection is aborted: its ends may no longer agree on what comes next.
    fn queue(&self, begin: impl FnOnce(&mut Communicator) -> Result<(), CommError>) -> Result<()> {
        let mut open = lock(&self.open);
        let ended = || Error::Connection("the connection between two accelerators has been ended".into());
        let communicator = open.as_mut().ok_or_else(ended)?;
        let begun = begin(communicator).map_err(Error::from);
        let queued = begun.and_then(|()| self.world.wait(|| communicator.is_ready()));
        if queued.is_err() {
            *open = None;
        }
        queued
    }
}

impl Watched for Link {
    fn end(&self) -> bool {
        let Ok(mut open) = self.open.try_lock() else { return false };
        *open = None;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_devices_that_are_two_are_connected() {
        let gpu = |process: usize| (process, Device::Cuda(0));
        let ends = Ends { from: gpu(0), to: gpu(1) };
        let offer = |version: i32, id: u8| Some((version, vec![(0, [id; 16])]));
        assert!(can_connect(&[offer(22800, 1), offer(22800, 2)], &ends));
        assert!(!can_connect(&[offer(22800, 1), offer(22800, 1)], &ends), "one device");
        assert!(!can_connect(&[offer(22800, 1), offer(22700, 2)], &ends), "two versions");
        assert!(!can_connect(&[offer(22800, 1), None], &ends), "no NCCL");
        assert!(!can_connect(&[offer(22800, 1), Some((22800, vec![]))], &ends), "a device that is not known");
    }
}
