//! The device streams of a pipeline.
//!
//! Each stage on an accelerator computes on its own stream, so that stages on one device do not
//! wait for each other. Transfers from one device to another are copied on two more streams, one on
//! each side, so that copies overlap with computation. Activations that are offloaded are copied on
//! two streams of each device. Only events order the streams. The host waits in one case: if a CPU
//! stage receives a value from an accelerator.
//!
//! The caller's streams are ordered with the stages' streams at both ends of a run: the caller's
//! earlier work comes before the run, and its later work after it. Memory that one stream allocates
//! and another one uses is recorded in the allocator, which could otherwise reuse it too early.
//!
//! If all stages are on the CPU, there are no streams, and these functions do nothing.

use std::sync::{Arc, Mutex};

use tch::{Device, Tensor};

use crate::error::{Error, Result};
use crate::lock::lock;
use crate::stages::Route;
use crate::torch::{CopyStreams, Event, Offload, OffloadStreams, OnStream, Stream, TorchError, transfer};

/// The device streams of a pipeline.
#[derive(Debug)]
pub(crate) struct DeviceStreams {
    /// All streams, without duplicates.
    _lent: LentStreams,
    devices: Vec<Device>,
    /// For each stage, the stream on which it computes; `None` on the CPU.
    stages: Vec<Option<Stream>>,
    /// For each route, the streams on which its values are copied.
    copies: Vec<RouteStreams>,
    /// For each stage, the streams on which its activations are copied; `None` if they stay.
    offload: Vec<Option<OffloadStreams>>,
}

/// The streams on which a route's values are copied, and those for gradients in the other
/// direction.
#[derive(Clone, Copy, Debug)]
struct RouteStreams {
    forward: CopyStreams,
    back: CopyStreams,
}

/// The direction of a transfer along a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// A value, from the sending stage to the receiving stage.
    Forward,
    /// A gradient, from the receiving stage to the sending stage.
    Back,
}

impl DeviceStreams {
    pub(crate) fn new(devices: &[Device], routes: &[Route], offload: Option<&Offload>) -> Result<Self> {
        let mut lent = LentStreams::default();
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
        // An accelerator has only a few dozen streams, so all skips between two stages share
        // theirs.
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
        let offload = offload_streams(devices, offload, &mut lent)?;
        Ok(Self { _lent: lent, devices: devices.to_vec(), stages, copies: by_route, offload })
    }

    /// The streams on which the stage's activations are copied; `None` if they stay.
    pub(crate) fn offload(&self, stage: usize) -> Option<OffloadStreams> {
        self.offload[stage]
    }

    /// Makes the stage's stream current for this thread, until the guard is dropped.
    pub(crate) fn enter(&self, stage: usize) -> Result<Option<OnStream>, TorchError> {
        self.stages[stage].map(|stream| stream.enter()).transpose()
    }

    /// Records an event after the work that is queued on the stage's stream; `None` on the CPU,
    /// where the work is done already.
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

    /// Whether both stages are on one device, so that values are not copied from one to the other.
    pub(crate) fn share_device(&self, stage: usize, other: usize) -> bool {
        self.devices[stage] == self.devices[other]
    }

    /// Starts a run: work queued on the stages' streams from now on runs after all work queued on
    /// this thread's streams.
    pub(crate) fn fork(&self) -> Result<(), TorchError> {
        self.stages.iter().flatten().try_for_each(|stage| stage.wait(&stage.current()?.record()?))
    }

    /// Ends a run: work queued on this thread's streams from now on runs after all work queued on
    /// the stages' streams.
    pub(crate) fn join(&self) -> Result<(), TorchError> {
        self.stages.iter().flatten().try_for_each(|stage| stage.current()?.wait(&stage.record()?))
    }

    /// Records that this thread's streams will use the results of a stage, after
    /// [`join`](Self::join).
    pub(crate) fn used_here<'t>(&self, tensors: impl Iterator<Item = &'t Tensor>) -> Result<(), TorchError> {
        for tensor in tensors {
            // The stream of any stage on a device gives the current stream of that device.
            let stage = self.devices.iter().position(|&device| device == tensor.device());
            if let Some(stream) = stage.and_then(|stage| self.stages[stage]) {
                stream.current()?.uses(tensor)?;
            }
        }
        Ok(())
    }
}

/// The streams for offloading of each stage. Stages on one device share theirs.
fn offload_streams(
    devices: &[Device],
    offload: Option<&Offload>,
    lent: &mut LentStreams,
) -> Result<Vec<Option<OffloadStreams>>> {
    let chosen = offload.and_then(|offload| offload.stages.as_deref());
    for &stage in chosen.unwrap_or_default() {
        match devices.get(stage) {
            None => {
                let count = devices.len();
                return Err(Error::Setting(format!("`offload` names stage {stage}, but there are {count} stages")));
            }
            Some(Device::Cpu) => {
                return Err(Error::Setting(format!(
                    "`offload` names stage {stage}, which is on the CPU: its tensors are in the host's memory already"
                )));
            }
            Some(_) => {}
        }
    }
    let mut known: Vec<(Device, OffloadStreams)> = Vec::new();
    let mut streams = Vec::with_capacity(devices.len());
    for (stage, &device) in devices.iter().enumerate() {
        if offload.is_none() || device == Device::Cpu || chosen.is_some_and(|chosen| !chosen.contains(&stage)) {
            streams.push(None);
            continue;
        }
        let found = known.iter().find(|(on, _)| *on == device).map(|(_, streams)| *streams);
        streams.push(Some(match found {
            Some(streams) => streams,
            None => {
                let made = OffloadStreams { out: lent.borrow(device)?, back: lent.borrow(device)? };
                known.push((device, made));
                made
            }
        }));
    }
    Ok(streams)
}

/// Streams of pipelines that no longer exist.
///
/// libtorch allocates a workspace for each stream that multiplies matrices, and keeps it (32 MiB on
/// a Hopper GPU). So new pipelines reuse the streams of earlier ones.
static FREE: Mutex<Vec<(Device, Stream)>> = Mutex::new(Vec::new());

/// Streams that are returned when this is dropped, even if work is still queued on them: later work
/// on them runs after it.
#[derive(Debug, Default)]
pub(crate) struct LentStreams(Vec<(Device, Stream)>);

impl LentStreams {
    pub(crate) fn borrow(&mut self, device: Device) -> Result<Stream, TorchError> {
        let mut free = lock(&FREE);
        let stream = match free.iter().rposition(|&(on, _)| on == device) {
            Some(index) => free.remove(index).1,
            None => Stream::new(device)?,
        };
        self.0.push((device, stream));
        Ok(stream)
    }
}

impl Drop for LentStreams {
    fn drop(&mut self) {
        // The last stream is taken first, so that each has the same task in the next pipeline.
        lock(&FREE).extend(self.0.drain(..).rev());
    }
}
