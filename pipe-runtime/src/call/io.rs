use tch::Tensor;

use super::give_up;
use crate::Context;
use crate::flow::{Flow, Item, Parcel};
use crate::graph::Port;
use crate::model::Model;
use crate::torch::{StageGraph, version};

/// What a stage receives and sends while it runs one micro-batch.
#[doc(hidden)]
pub struct Io<'a> {
    receive: &'a mut dyn FnMut(usize) -> Parcel,
    recorded: Option<Recorded>,
    sent: Vec<Sent>,
}

/// A port, and what goes through it.
pub(super) type Sent = (usize, Parcel);

/// The graph of one stage and micro-batch, and which values its ends are: (port, position of the tensor in the parcel).
#[derive(Debug)]
pub(super) struct Recorded {
    pub(super) graph: StageGraph,
    pub(super) received: Vec<(usize, usize)>,
    pub(super) roots: Vec<(usize, usize)>,
}

/// The position of the loss among the tensors that the last stage gives back.
pub(super) const LOSS: usize = usize::MAX;

/// What the last stage does with its output while it trains.
pub(super) struct Tail<'t> {
    /// The port through which the output leaves.
    pub(super) port: usize,
    /// Makes the micro-batch's loss of it.
    pub(super) loss: &'t mut dyn FnMut(Parcel, &Context) -> Tensor,
    /// Whether it is wanted after that.
    pub(super) keep: bool,
}

/// Whether the values that a stage sends want gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// No: nothing is recorded and nothing will be.
    No,
    /// Those that can have one: the graph is recorded later, by the recomputation, and only then shows which do.
    Perhaps,
}

impl<'a> Io<'a> {
    /// `receive` hands over what lies at a port, on the stage's device. With `record`, the stage's graph is recorded.
    pub(super) fn new(receive: &'a mut dyn FnMut(usize) -> Parcel, record: bool) -> Self {
        let recorded = record.then(|| Recorded {
            graph: StageGraph::new().unwrap_or_else(|error| give_up(error.to_string())),
            received: Vec::new(),
            roots: Vec::new(),
        });
        Self { receive, recorded, sent: Vec::new() }
    }

    /// The value that came through `port`.
    pub fn receive<T: Flow>(&mut self, port: Port<T>) -> T {
        self.take(port.index).open()
    }

    /// What came through the port, as a start of the stage's graph.
    fn take(&mut self, port: usize) -> Parcel {
        let mut parcel = (self.receive)(port);
        for (position, item) in parcel.items.iter_mut().enumerate() {
            if let Some(recorded) = self.recorded.as_mut().filter(|_| item.needs_gradient) {
                item.tensor = recorded.graph.receive(&item.tensor).unwrap_or_else(|error| give_up(error.to_string()));
                recorded.received.push((port, position));
            }
        }
        parcel
    }

    /// What the caller handed in. That it flows is known from the model.
    pub fn receive_input<M: Model>(&mut self, port: Port<M::Input>) -> M::Input {
        self.receive(port)
    }

    /// What goes back to the caller.
    pub fn send_output<M: Model>(&mut self, port: Port<M::Output>, value: M::Output) {
        self.send(port, value);
    }

    /// Sends a value through `port`. It leaves when the stage is done: a later in-place layer of the same stage
    /// still changes it, as it would without stages.
    pub fn send<T: Flow>(&mut self, port: Port<T>, value: T) {
        self.give(port.index, Parcel::of(value));
    }

    fn give(&mut self, port: usize, parcel: Parcel) {
        self.sent.push((port, parcel));
    }

    /// Lets `tail` make the loss of what was sent through the port to the caller. The loss becomes a root, the output itself a constant, if it is kept.
    pub(super) fn end(&mut self, cx: &Context, tail: Tail<'_>) {
        let Some(place) = self.sent.iter().position(|(port, _)| *port == tail.port) else { return };
        let (port, output) = self.sent.swap_remove(place);
        let loss = (tail.loss)(output.share(), cx);
        if tail.keep {
            let mut constant = output;
            for item in &mut constant.items {
                item.tensor = item.tensor.detach();
            }
            self.sent.push((port, constant));
        }
        if let Some(recorded) = &mut self.recorded {
            let (_, is_root) = recorded.graph.send(&loss).unwrap_or_else(|error| give_up(error.to_string()));
            if is_root {
                recorded.roots.push((port, LOSS));
            }
        }
    }

    /// What was sent, cut off from the stage's graph, which comes back too if one was recorded.
    pub(super) fn finish(mut self, wanted: Wanted) -> (Vec<Sent>, Option<Recorded>) {
        // The engine adds the gradients of one tensor in the order of its roots. In place, that of the value which is used
        // last arrives first.
        self.sent.sort_by_key(|(port, _)| std::cmp::Reverse(*port));
        for (port, parcel) in &mut self.sent {
            for (position, item) in parcel.items.iter_mut().enumerate() {
                match &mut self.recorded {
                    Some(recorded) => {
                        let sent = recorded.graph.send(&item.tensor).unwrap_or_else(|error| give_up(error.to_string()));
                        (item.tensor, item.needs_gradient) = sent;
                        if item.needs_gradient {
                            recorded.roots.push((*port, position));
                        }
                    }
                    None => detach(item, wanted),
                }
                item.version = version(&item.tensor);
            }
        }
        (self.sent, self.recorded)
    }
}

fn detach(item: &mut Item, wanted: Wanted) {
    if item.tensor.requires_grad() {
        item.tensor = item.tensor.detach();
    }
    let differentiable = item.tensor.is_floating_point() || item.tensor.is_complex();
    item.needs_gradient = wanted == Wanted::Perhaps && differentiable;
}
