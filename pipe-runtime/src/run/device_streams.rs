//! The device streams of a pipeline.
//!
//! Each stage on an accelerator computes on a separate stream, so stages that share a device need
//! not wait for each other. A value sent from one device to another is copied on two more streams,
//! one on each device, so that copies overlap with computation. Only events order the streams. The
//! host waits in one case: when a CPU stage receives a value from an accelerator.
//!
//! A run is ordered with the caller's streams at both ends: it starts after the work that the
//! caller has queued, and the caller's later work starts after it. Memory that one stream allocates
//! and another one uses is marked as such in the allocator, which could otherwise hand it out again
//! too early.
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
    /// All streams of this pipeline, each once.
    _lent: Lent,
    devices: Vec<Device>,
    /// For each stage: the stream it computes on; `None` on the CPU.
    stages: Vec<Option<Stream>>,
    /// For each route: the streams on which its values are copied.
    copies: Vec<RouteStreams>,
}

/// The streams on which a route's values are copied, and those for their gradients on the way back.
#[derive(Clone, Copy, Debug)]
struct RouteStreams {
    forward: CopyStreams,
    back: CopyStreams,
}

/// The direction in which a value goes along a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// A value, sent to the receiving stage.
    Forward,
    /// A gradient, sent back to the stage that sent the value.
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
        // An accelerator has only a few tens of streams, so all skips between two stages share
        // theirs.
        let mut known: Vec<((usize, usize), RouteStreams)> = Vec::new();
        let mut by_route = Vec::with_capacity(routes.len());
        for route in routes {
            // A route from or to the caller has only one stage, which counts as both ends.
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

    /// Makes the stage's stream current on this thread until the guard is dropped.
    pub(crate) fn enter(&self, stage: usize) -> Result<Option<OnStream>, TorchError> {
        self.stages[stage].map(|stream| stream.enter()).transpose()
    }

    /// Records an event after all work queued on the stage's stream. `None` on the CPU, where the
    /// work is done already.
    pub(crate) fn mark(&self, stage: usize) -> Result<Option<Arc<Event>>, TorchError> {
        self.stages[stage].map(|stream| stream.record().map(Arc::new)).transpose()
    }

    /// Moves `tensors`, sent along `route`, to the device of `stage`. They are complete once
    /// `ready` has passed. Work queued on the stage's stream after this call may read them.
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

    /// At the start of a run: makes the stages' streams wait for the work queued on this thread's
    /// current streams.
    pub(crate) fn fork(&self) -> Result<(), TorchError> {
        self.stages.iter().flatten().try_for_each(|stage| stage.wait(&stage.current()?.record()?))
    }

    /// At the end of a run: makes this thread's current streams wait for the work queued on the
    /// stages' streams.
    pub(crate) fn join(&self) -> Result<(), TorchError> {
        self.stages.iter().flatten().try_for_each(|stage| stage.current()?.wait(&stage.record()?))
    }

    /// Marks `tensors`, computed by stages, as used by this thread's current streams after
    /// [`join`](Self::join).
    pub(crate) fn used_here<'t>(&self, tensors: impl Iterator<Item = &'t Tensor>) -> Result<(), TorchError> {
        for tensor in tensors {
            // Any stage's stream on the tensor's device can name the current stream of that device.
            let stage = self.devices.iter().position(|&device| device == tensor.device());
            if let Some(stream) = stage.and_then(|stage| self.stages[stage]) {
                stream.current()?.uses(tensor)?;
            }
        }
        Ok(())
    }
}

/// The streams of dropped pipelines, kept for reuse.
///
/// libtorch allocates memory for each stream that has multiplied matrices, and never frees it (32
/// MiB on a Hopper GPU). So a new pipeline takes the streams of earlier ones.
static FREE: Mutex<Vec<(Device, Stream)>> = Mutex::new(Vec::new());

/// Streams that return to [`FREE`] when this is dropped. They may still have queued work: the next
/// pipeline's work on them runs after it.
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
        // Reversed, because `borrow` takes the last free stream first: so each stream has the same
        // role in the next pipeline.
        lock(&FREE).extend(self.0.drain(..).rev());
    }
}
