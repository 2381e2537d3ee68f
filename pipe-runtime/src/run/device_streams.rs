//! The device streams of a pipeline.
//!
//! Each stage on an accelerator computes on a stream of its own, so stages that share a device need
//! not wait for each other. What goes from one device to another is copied on two more streams, one
//! on each side, so that copies run beside computation. Order between streams is made by events
//! alone: the host waits nowhere but where a CPU stage takes what an accelerator has made.
//!
//! A caller's own streams are ordered with the stages' at both ends of a run: its work until then
//! comes before the stages', theirs before its later work. Memory that one stream allocates and
//! another one uses is marked as such in the allocator, or it could be handed out again too early.
//!
//! Where all stages are on the CPU, there are no streams, and each of these functions is a look at
//! an empty list.

use std::sync::{Arc, Mutex};

use tch::{Device, Tensor};

use crate::error::Result;
use crate::lock::lock;
use crate::stages::Route;
use crate::torch::{CopyStreams, Event, OnStream, Stream, TorchError, transfer};

/// The device streams of a pipeline.
#[derive(Debug)]
pub(crate) struct DeviceStreams {
    /// Each of them once.
    _lent: Lent,
    devices: Vec<Device>,
    /// By stage: what it computes on; none on the CPU.
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

/// Which way a value goes along a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// A value, to the stage that receives.
    Forward,
    /// A gradient, to the stage that has sent.
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
        // An accelerator has a few tens of streams: all skips between two stages share theirs.
        let mut known: Vec<((usize, usize), RouteStreams)> = Vec::new();
        let mut by_route = Vec::with_capacity(routes.len());
        for route in routes {
            // A route from or to the caller has one end.
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

    /// Gives what this thread does to the stage's stream, until the guard is dropped.
    pub(crate) fn enter(&self, stage: usize) -> Result<Option<OnStream>, TorchError> {
        self.stages[stage].map(|stream| stream.enter()).transpose()
    }

    /// Marks what the stage has been given to do until now; nothing on the CPU, where it is done.
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

    /// At the start of a run: what the stages are given from now on comes after what this thread's
    /// own streams have been given.
    pub(crate) fn fork(&self) -> Result<(), TorchError> {
        self.stages.iter().flatten().try_for_each(|stage| stage.wait(&stage.current()?.record()?))
    }

    /// At its end: what this thread's own streams are given from now on comes after all that the
    /// stages have been given.
    pub(crate) fn join(&self) -> Result<(), TorchError> {
        self.stages.iter().flatten().try_for_each(|stage| stage.current()?.wait(&stage.record()?))
    }

    /// This thread will use what a stage made, on its own streams, after [`join`](Self::join).
    pub(crate) fn used_here<'t>(&self, tensors: impl Iterator<Item = &'t Tensor>) -> Result<(), TorchError> {
        for tensor in tensors {
            // One stage's stream is enough to ask for the current one of its device.
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
/// libtorch takes memory for each stream that has multiplied matrices, and keeps it (32 MiB on a
/// Hopper GPU): a pipeline that follows another one has its streams.
static FREE: Mutex<Vec<(Device, Stream)>> = Mutex::new(Vec::new());

/// Streams that are given back when this is dropped, also with work still to do: what comes next on
/// them comes after it.
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
        // The last one is taken first, so each has the same task in the next pipeline.
        lock(&FREE).extend(self.0.drain(..).rev());
    }
}
