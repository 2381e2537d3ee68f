//! The ports of a stage, and the values that go through them while it runs.

use std::marker::PhantomData;

use crate::flow::{Flow, PackedValue};
use crate::lock::give_up;
use crate::model::Model;
use crate::torch::{StageGraph, version};

/// A port, through which a value of type `T` goes from one stage to another.
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

/// What a stage receives and sends while it runs one micro-batch.
#[doc(hidden)]
pub struct Io<'a> {
    receive: &'a mut dyn FnMut(usize) -> PackedValue,
    recorded: Option<Recorded>,
    sent: Vec<Sent>,
}

/// A port's number, and the value that is sent through it.
pub(crate) type Sent = (usize, PackedValue);

/// The graph of one stage and micro-batch. Each of its ends is given as (port, position of the
/// tensor in the value).
#[derive(Debug)]
pub(crate) struct Recorded {
    pub(crate) graph: StageGraph,
    pub(crate) received: Vec<(usize, usize)>,
    pub(crate) roots: Vec<(usize, usize)>,
}

impl<'a> Io<'a> {
    /// Makes the ends of a stage. `receive` returns the value at a port, on the stage's device.
    /// With `record`, the graph of that stage is recorded.
    pub(crate) fn new(receive: &'a mut dyn FnMut(usize) -> PackedValue, record: Option<usize>) -> Self {
        let recorded = record.map(|stage| Recorded {
            graph: StageGraph::new(stage).unwrap_or_else(|error| give_up(error.to_string())),
            received: Vec::new(),
            roots: Vec::new(),
        });
        Self { receive, recorded, sent: Vec::new() }
    }

    /// Receives the value that came through `port`.
    pub fn receive<T: Flow>(&mut self, port: Port<T>) -> T {
        self.take(port.index).unpack()
    }

    /// Takes the value that came through the port. Its tensors become starts of the stage's graph.
    fn take(&mut self, port: usize) -> PackedValue {
        let mut value = (self.receive)(port);
        for (position, item) in value.tensors.iter_mut().enumerate() {
            if let Some(recorded) = self.recorded.as_mut().filter(|_| item.needs_gradient) {
                item.tensor = recorded.graph.receive(&item.tensor).unwrap_or_else(|error| give_up(error.to_string()));
                recorded.received.push((port, position));
            }
        }
        value
    }

    /// Receives the caller's input. The model guarantees that its type is [`Flow`].
    pub fn receive_input<M: Model>(&mut self, port: Port<M::Input>) -> M::Input {
        self.receive(port)
    }

    /// Sends the output back to the caller.
    pub fn send_output<M: Model>(&mut self, port: Port<M::Output>, value: M::Output) {
        self.send(port, value);
    }

    /// Sends a value through `port`. It leaves when the stage is done, so a later in-place layer of
    /// the same stage still changes it, as it would without stages.
    pub fn send<T: Flow>(&mut self, port: Port<T>, value: T) {
        self.give(port.index, PackedValue::of(value));
    }

    fn give(&mut self, port: usize, value: PackedValue) {
        self.sent.push((port, value));
    }

    /// Returns what was sent, detached from the stage's graph, and that graph if one was recorded.
    pub(crate) fn finish(mut self) -> (Vec<Sent>, Option<Recorded>) {
        // The backward adds the gradients of one tensor in the order of the roots. In the
        // unpipelined run, the gradient of the value that is used last arrives first.
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
        if let Some(recorded) = &mut self.recorded {
            recorded.graph.end().unwrap_or_else(|error| give_up(error.to_string()));
        }
        (self.sent, self.recorded)
    }
}
