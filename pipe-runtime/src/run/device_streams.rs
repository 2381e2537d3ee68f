//! The device streams of a pipeline.
//!
//! Each stage on an accelerator computes on its own stream, so stages that share a device do not
//! wait for each other. Values that go from one device to another are copied on two more streams,
//! one on each side, so that copies overlap with computation. Only events order the streams: the
//! host waits nowhere except where a CPU stage takes what an accelerator has made.
//!
//! The caller's own streams are ordered with the stages' at both ends of a run. Work that they have
//! queued before the run comes before the stages' work, and work that they queue after it comes
//! after. Memory that one stream allocates and another one uses is marked in the allocator, which
//! could otherwise hand it out again too early.
//!
//! If all stages are on the CPU, there are no streams, and each of these functions only looks at an
//! empty list.

use std::sync::{Arc, Mutex};

use tch::{Device, Tensor};

use crate::error::Result;
use crate::lock::lock;
use crate::stages::Route;
use crate::torch::{CopyStreams, Event, OnStream, Stream, TorchError, transfer};

/// The device streams of a pipeline.
#[derive(Debug)]
pub(crate) struct DeviceStreams {
    /// All of them, each once.
    _lent: Lent,
    devices: Vec<Device>,
    /// By stage: the stream that it computes on. On the CPU there is none.
    stages: Vec<Option<Stream>>,
    /// By route: the streams that its values are copied on.
    copies: Vec<RouteStreams>,
}

/// The streams on which a route's values are copied, and their gradients on the way back.
#[derive(Clone, Copy, Debug)]
struct RouteStreams {
    forward: CopyStreams,
    back: CopyStreams,
}

/// The direction of a value along a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// A value, to the stage that receives it.
    Forward,
    /// A gradient, to the stage that sent the value.
    Back,
}

impl DeviceStreams {
    pub(crate) fn new(devices: &[Device], routes: &[Route]) -> Result<Self> {
        let mut lent = Lent::default();
        let mut on = |device: Device| (device != Device::Cpu).then(|| lent.borrow(device)).transpose();
        let stages = devices.iter().map(|&device| on(device)).collect::<Result<_, _>>()?;
        let mut streams_between = |(from, to): (usize, usize)| -> Result<RouteStreams, TorchError> {
            let (from, to) = (devices[from], devices[to]);
            if from == to {
                let none = CopyStreams { from: None, to: None };
                return Ok(RouteStreams { forward: none, back: none });
            }
            Ok(RouteStreams {
                forward: CopyStreams { from: on(from)?, to: on(to)? },
                back: CopyStreams { from: on(to)?, to: on(from)? },
            })
        };
        // All skips between two stages share their streams, because an accelerator has only a few
        // tens of them.
        let mut known: Vec<((usize, usize), RouteStreams)> = Vec::new();
        let mut by_route = Vec::with_capacity(routes.len());
        for route in routes {
            // A route from or to the caller has a stage at one end only.
            let ends = (route.from.or(route.to).unwrap_or(0), route.to.or(route.from).unwrap_or(0));
            let found = known.iter().find(|(known, _)| *known == ends).map(|(_, streams)| *streams);
            by_route.push(match found {
                Some(streams) => streams,
                None => {
                    let streams = streams_between(ends)?;
                    known.push((ends, streams));
                    streams
                }
            });
        }
        Ok(Self { _lent: lent, devices: devices.to_vec(), stages, copies: by_route })
    }

    /// Queues what this thread does on the stage's stream, until the guard is dropped.
    pub(crate) fn enter(&self, stage: usize) -> Result<Option<OnStream>, TorchError> {
        self.stages[stage].map(|stream| stream.enter()).transpose()
    }

    /// Marks the work that the stage has queued until now. There is no mark on the CPU, where that
    /// work is done.
    pub(crate) fn mark(&self, stage: usize) -> Result<Option<Arc<Event>>, TorchError> {
        self.stages[stage].map(|stream| stream.record().map(Arc::new)).transpose()
    }

    /// Moves `tensors`, sent along `route`, to the device of `stage`. Work queued on the stage's
    /// stream after this call may read them. They are complete once `ready` has passed.
    pub(crate) fn move_to_stage<'t>(
        &self,
        stage: usize,
        (route, direction): (usize, Direction),
        ready: Option<&Event>,
        tensors: impl Iterator<Item = &'t mut Tensor>,
    ) -> Result<(), TorchError> {
        let (device, stream) = (self.devices[stage], self.stages[stage]);
        let mut waits = true;
        for tensor in tensors {
            match stream {
                _ if tensor.device() != device => {
                    let copies = self.copies[route];
                    let streams = if direction == Direction::Forward { copies.forward } else { copies.back };
                    *tensor = transfer(tensor, ready, streams, device, stream)?;
                }
                Some(stream) => {
                    if let Some(ready) = ready.filter(|_| std::mem::take(&mut waits)) {
                        stream.wait(ready)?;
                    }
                    stream.uses(tensor)?;
                }
                None => {}
            }
        }
        Ok(())
    }

    /// Starts a run: whatever the stages queue from now on comes after the work already queued on
    /// this thread's own streams.
    pub(crate) fn fork(&self) -> Result<(), TorchError> {
        self.stages.iter().flatten().try_for_each(|stage| stage.wait(&stage.current()?.record()?))
    }

    /// Ends a run: whatever this thread's own streams queue from now on comes after the work
    /// already queued by the stages.
    pub(crate) fn join(&self) -> Result<(), TorchError> {
        self.stages.iter().flatten().try_for_each(|stage| stage.current()?.wait(&stage.record()?))
    }

    /// Marks what a stage made as used by this thread's own streams, after [`join`](Self::join).
    pub(crate) fn used_here<'t>(&self, tensors: impl Iterator<Item = &'t Tensor>) -> Result<(), TorchError> {
        for tensor in tensors {
            // Any stage's stream on the device can tell which stream is current there.
            let stage = self.devices.iter().position(|&device| device == tensor.device());
            if let Some(stream) = stage.and_then(|stage| self.stages[stage]) {
                stream.current()?.uses(tensor)?;
            }
        }
        Ok(())
    }
}

/// Streams that no pipeline has any more.
///
/// libtorch allocates memory for each stream that has multiplied matrices, and keeps it (32 MiB on
/// a Hopper GPU). A new pipeline therefore reuses the streams of an earlier one.
static FREE: Mutex<Vec<(Device, Stream)>> = Mutex::new(Vec::new());

/// Streams that are given back when this is dropped, even with work still queued. Whatever is
/// queued on them next comes after that work.
#[derive(Debug, Default)]
struct Lent(Vec<(Device, Stream)>);

impl Lent {
    fn borrow(&mut self, device: Device) -> Result<Stream, TorchError> {
        let mut free = lock(&FREE);
        let stream = match free.iter().rposition(|&(on, _)| on == device) {
            Some(index) => free.remove(index).1,
            None => Stream::new(device)?,
        };
        self.0.push((device, stream));
        Ok(stream)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // The last one is taken first, so each stream has the same task in the next pipeline.
        lock(&FREE).extend(self.0.drain(..).rev());
    }
}
