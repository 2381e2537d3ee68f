//! The ports of a stage, and the values that pass through them while it runs.

use std::marker::PhantomData;

use super::routes::Route;
use tch::Tensor;

use crate::flow::{Flow, ONE_OF_TWO_CHANGED, PackedValue, Portable, mark_shared};
use crate::lock::give_up;
use crate::model::{Model, Repeated};
use crate::torch::{StageGraph, version};

/// A typed port, on which one stage (or the caller) sends a value and another one receives it.
#[doc(hidden)]
#[derive(Debug)]
pub struct Port<T> {
    pub(super) index: usize,
    pub(super) value: PhantomData<fn() -> T>,
}

impl<T> Clone for Port<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Port<T> {}

/// The ports on which one stage sends the same value to each of several others.
#[doc(hidden)]
#[derive(Debug)]
pub struct Ports<T> {
    /// The index of each port, and the stage that receives there.
    pub(super) ends: &'static [(usize, usize)],
    pub(super) value: PhantomData<fn() -> T>,
}

impl<T> Ports<T> {
    /// The port to stage `stage`.
    fn to(self, stage: usize) -> Port<T> {
        let port = self.ends.iter().find(|(_, to)| *to == stage);
        let (index, _) = port.expect("generated code receives what it has declared");
        Port { index: *index, value: PhantomData }
    }
}

impl<T> Clone for Ports<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Ports<T> {}

/// Receives and sends the values of a stage while it runs one micro-batch.
#[doc(hidden)]
pub struct Io<'a> {
    routes: &'a [Route],
    receive: &'a mut dyn FnMut(usize) -> PackedValue,
    /// The values on routes within the stage that wait for a later piece. Within one segment, they
    /// cut no graph.
    inner: Vec<Sent>,
    recorded: Option<Recorded>,
    sent: Vec<Sent>,
    /// The received tensors that share their memory with others, with their versions.
    shared: Vec<(Tensor, u64)>,
}

/// The number of the first port on which repeated layers hand on what is lent to them.
const LENT: usize = 1 << 48;

/// A port's index, and the value sent on it.
pub(crate) type Sent = (usize, PackedValue);

/// The graph of one stage and micro-batch. Its received tensors and its roots are identified by
/// (port, position of the tensor in the value).
#[derive(Debug)]
pub(crate) struct Recorded {
    pub(crate) graph: StageGraph,
    pub(crate) received: Vec<(usize, usize)>,
    pub(crate) roots: Vec<(usize, usize)>,
}

/// Whether a value on the port stays in its stage. Ports between repeated layers are not routes.
pub(crate) fn is_inner(routes: &[Route], port: usize) -> bool {
    routes.get(port).is_none_or(Route::is_inner)
}

impl<'a> Io<'a> {
    /// `receive` takes the value that waits at a port; the value must be on the stage's device. If
    /// `record` is the number of the stage, its graph is recorded.
    pub(crate) fn new(
        routes: &'a [Route],
        receive: &'a mut dyn FnMut(usize) -> PackedValue,
        record: Option<usize>,
    ) -> Self {
        let recorded = record.map(|stage| Recorded {
            graph: StageGraph::new(stage).unwrap_or_else(|error| give_up(error.to_string())),
            received: Vec::new(),
            roots: Vec::new(),
        });
        Self { routes, receive, inner: Vec::new(), recorded, sent: Vec::new(), shared: Vec::new() }
    }

    /// Receives the value that was sent on `port`.
    pub fn receive<T: Flow>(&mut self, port: Port<T>) -> T {
        self.take(port.index).unpack()
    }

    /// Receives the lent value that was sent to stage `stage`. It is one method, and not two:
    /// rustc takes its time to find one.
    pub fn receive_lent<T: Flow>(&mut self, ports: Ports<T>, stage: usize) -> T {
        self.receive(ports.to(stage))
    }

    /// Receives a lent value for one of repeated layers that are recomputed one by one: the first
    /// of a part takes it from the port to `stage`, and each hands it on to the next.
    pub fn receive_each<T: Flow, L>(&mut self, ports: Ports<T>, stage: usize, part: &Repeated<L>, number: usize) -> T {
        let port = ports.to(stage);
        let handed_to = |number: usize| Port { index: LENT + (port.index << 24) + number, value: PhantomData };
        let value = self.receive(if number == 0 { port } else { handed_to(number) });
        if number + 1 < part.count() {
            self.send(handed_to(number + 1), value.share());
        }
        value
    }

    /// Receives a packed value. If the graph is recorded, the tensors that need a gradient become
    /// its inputs.
    fn take(&mut self, port: usize) -> PackedValue {
        if let Some(index) = self.inner.iter().position(|(at, _)| *at == port) {
            return self.inner.swap_remove(index).1;
        }
        let mut value = (self.receive)(port);
        for (position, item) in value.tensors.iter_mut().enumerate() {
            if let Some(recorded) = self.recorded.as_mut().filter(|_| item.needs_gradient) {
                item.tensor = recorded.graph.receive(&item.tensor).unwrap_or_else(|error| give_up(error.to_string()));
                recorded.received.push((port, position));
            }
            if item.is_shared {
                self.shared.push((item.tensor.shallow_clone(), version(&item.tensor)));
            }
        }
        value
    }

    /// Receives the caller's input. `M` guarantees that it is [`Flow`], so no bound is needed.
    pub fn receive_input<M: Model>(&mut self, port: Port<M::Input>) -> M::Input {
        self.receive(port)
    }

    /// Sends the output back to the caller.
    pub fn send_output<M: Model>(&mut self, port: Port<M::Output>, value: M::Output) {
        self.send(port, value);
    }

    /// Sends a value on `port`. It is only handed over when the stage is done, so a later in-place
    /// layer of the same stage still changes it, as it would in an unpipelined run.
    pub fn send<T: Flow>(&mut self, port: Port<T>, value: T) {
        self.give(port.index, PackedValue::of(value));
    }

    /// Sends a value to a stage that is annotated for another process.
    pub fn send_away<T: Portable>(&mut self, port: Port<T>, value: T) {
        self.send(port, value);
    }

    /// Sends a lent value to each stage that reads it.
    pub fn send_all<T: Flow>(&mut self, ports: Ports<T>, value: T) {
        for (index, _) in ports.ends {
            self.give(*index, PackedValue::of(value.share()));
        }
    }

    /// The same, if one of the stages is annotated for another process.
    pub fn send_all_away<T: Portable>(&mut self, ports: Ports<T>, value: T) {
        self.send_all(ports, value);
    }

    fn give(&mut self, port: usize, value: PackedValue) {
        let values = if is_inner(self.routes, port) { &mut self.inner } else { &mut self.sent };
        values.push((port, value));
    }

    /// Returns the values that were sent, to other stages or to later segments of this one,
    /// detached from the graph, and that graph if it was recorded.
    pub(crate) fn finish(mut self) -> (Vec<Sent>, Option<Recorded>) {
        if self.shared.iter().any(|(tensor, then)| version(tensor) != *then) {
            give_up(ONE_OF_TWO_CHANGED);
        }
        self.sent.append(&mut self.inner);
        // libtorch's autograd engine adds the gradients of one tensor in the order of the roots. In
        // an unpipelined run, the gradient of the value that is used last arrives first.
        self.sent.sort_by_key(|(port, _)| std::cmp::Reverse(*port));
        for (port, value) in &mut self.sent {
            for (position, item) in value.tensors.iter_mut().enumerate() {
                match &mut self.recorded {
                    Some(recorded) => {
                        let sent = recorded.graph.send(&item.tensor).unwrap_or_else(|error| give_up(error.to_string()));
                        (item.tensor, item.needs_gradient) = sent;
                        if item.needs_gradient {
                            recorded.roots.push((*port, position));
                        }
                    }
                    None => {
                        item.needs_gradient = false;
                        if item.tensor.requires_grad() {
                            item.tensor = item.tensor.detach();
                        }
                    }
                }
                item.version = version(&item.tensor);
            }
        }
        let shared: Vec<Tensor> = self.shared.into_iter().map(|(tensor, _)| tensor).collect();
        mark_shared(self.sent.iter_mut().flat_map(|(_, value)| &mut value.tensors), &shared);
        if let Some(recorded) = &mut self.recorded {
            recorded.graph.end().unwrap_or_else(|error| give_up(error.to_string()));
        }
        (self.sent, self.recorded)
    }
}
