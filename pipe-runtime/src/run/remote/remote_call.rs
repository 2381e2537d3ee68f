use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use pipe_engine::News;
use pipe_schedule::{Action, ActionKind, Order};
use tch::Tensor;

use super::Remote;
use super::channel::Delivered;
use super::wire::{Envelope, Form, Message, spans};
use crate::error::{Error, Result};
use crate::flow::{CHANGED_ON_ITS_WAY, PackedValue};
use crate::lock::lock;
use crate::run::repeats::{Held, repeats};
use crate::stages::{Route, crossings};
use crate::torch::Event;

/// The part of a call that runs in other processes.
pub(crate) struct RemoteCall {
    pub(crate) remote: Arc<Remote>,
    /// The number of the call.
    call: u64,
    /// For each step elsewhere that sends something here: how many of its messages are missing.
    missing: Mutex<HashMap<usize, usize>>,
    /// For whether it goes back, and each stage and micro-batch elsewhere: the position of its
    /// step.
    positions: HashMap<(bool, usize, usize), usize>,
    micro_batches: usize,
    /// What was sent, and received, for several micro-batches.
    sent: Mutex<Held>,
    received: Mutex<Held>,
}

/// What has arrived from a stage of another process.
pub(crate) enum Arrival {
    Value {
        port: usize,
        micro_batch: usize,
        value: PackedValue,
    },
    /// Gradients, each with the position of its tensor in the value.
    Gradients {
        port: usize,
        micro_batch: usize,
        gradients: Vec<(usize, Tensor)>,
        /// The event after which they are complete, if they are on an accelerator.
        ready: Option<Arc<Event>>,
    },
}

impl RemoteCall {
    /// `order` is that of the call's run.
    pub(crate) fn new(remote: &Arc<Remote>, call: u64, order: &Order, routes: &[Route]) -> Self {
        let mut positions = HashMap::new();
        let mut missing = HashMap::new();
        for (position, step) in order.steps.iter().enumerate() {
            let Action { kind, stage, micro_batch } = step.action;
            let goes_back = match kind {
                ActionKind::Forward => false,
                ActionKind::Backward | ActionKind::BackwardInput => true,
                _ => continue,
            };
            if !remote.is_elsewhere(stage) {
                continue;
            }
            positions.insert((goes_back, stage, micro_batch), position);
            let here = |route: &crate::stages::Crossing| match goes_back {
                false => route.from == stage && !remote.is_elsewhere(route.to),
                true => route.to == stage && !remote.is_elsewhere(route.from),
            };
            missing.insert(position, crossings(routes).filter(here).count());
        }
        Self {
            remote: Arc::clone(remote),
            call,
            missing: Mutex::new(missing),
            positions,
            micro_batches: order.steps.iter().map(|step| step.action.micro_batch + 1).max().unwrap_or(0),
            sent: Mutex::default(),
            received: Mutex::default(),
        }
    }

    /// Sends a value to the stage of another process that receives it. A variable, which is lent to
    /// a layer there, and what each micro-batch gets whole are sent with the first one alone.
    pub(crate) fn send_value(
        &self,
        (port, from, to): (usize, usize, usize),
        micro_batch: usize,
        value: &PackedValue,
        is_variable: &dyn Fn(&Tensor) -> bool,
    ) -> Result<(), String> {
        if value.is_changed() {
            return Err(CHANGED_ON_ITS_WAY.into());
        }
        let (edge, direct) = self.remote.edge(from, to).unzip();
        let sent = repeats(port, value, &mut lock(&self.sent), is_variable);
        let (value, layouts, spans) = Form::of(value, direct, &sent)?;
        let message = Message::Value { port, micro_batch, value };
        let envelope = Envelope { call: self.call, message, layouts, edge };
        let sent = lock(&self.remote.channel).send(self.remote.process_of(to), &envelope, spans);
        // The receiver may know of a part of it.
        sent.map_err(|error| self.remote.lost(error).to_string())
    }

    /// Sends gradients back to the stage of another process that has sent the value.
    pub(crate) fn send_gradients(
        &self,
        (port, from, to): (usize, usize, usize),
        micro_batch: usize,
        gradients: &[(usize, Tensor)],
    ) -> Result<(), String> {
        let (edge, direct) = self.remote.edge(from, to).unzip();
        let (layouts, memory) =
            spans(gradients.iter().map(|(_, gradient)| gradient), direct).map_err(|error| error.to_string())?;
        let positions = gradients.iter().map(|(position, _)| *position).collect();
        let message = Message::Gradients { port, micro_batch, positions };
        let envelope = Envelope { call: self.call, message, layouts, edge };
        let sent = lock(&self.remote.channel).send(self.remote.process_of(to), &envelope, memory);
        // The receiver may know of a part of it.
        sent.map_err(|error| self.remote.lost(error).to_string())
    }

    /// Takes in what has arrived: calls `arrived` for each value and gradient. Returns what it
    /// means for the run.
    pub(crate) fn poll(&self, routes: &[Route], mut arrived: impl FnMut(Arrival)) -> Result<Vec<News>> {
        let wanted = |envelope: &Envelope| {
            let is_of_run =
                matches!(envelope.message, Message::Value { .. } | Message::Gradients { .. } | Message::Failed { .. });
            envelope.call == self.call && is_of_run
        };
        let delivered = lock(&self.remote.channel).poll(wanted).map_err(|error| self.remote.lost(error))?;
        let mut news = Vec::new();
        for Delivered { from, envelope, tensors, ready } in delivered {
            if !envelope.message.fits(routes.len(), self.micro_batches) {
                let wrong = format!("a message of process {from} is for no value of this call");
                return Err(self.remote.lost(Error::Connection(wrong)));
            }
            match envelope.message {
                Message::Value { port, micro_batch, value } => {
                    let value = value.value(port, tensors, ready, &mut lock(&self.received));
                    arrived(Arrival::Value { port, micro_batch, value });
                    news.extend(routes[port].from.and_then(|from| self.count(false, from, micro_batch)));
                }
                Message::Gradients { port, micro_batch, positions } => {
                    let gradients = positions.into_iter().zip(tensors).collect();
                    arrived(Arrival::Gradients { port, micro_batch, gradients, ready });
                    news.extend(routes[port].to.and_then(|to| self.count(true, to, micro_batch)));
                }
                Message::Failed { step } => {
                    // The run may be over here, and what follows it waits for the other process.
                    self.remote.heard.fetch_max(self.call + 1, Ordering::Relaxed);
                    news.push(News::Failed(step));
                }
                Message::Output { .. } | Message::Tensors { .. } | Message::Part { .. } | Message::End => {}
            }
        }
        Ok(news)
    }

    /// Counts a message of a step. Returns the news if it was the step's last one.
    fn count(&self, goes_back: bool, stage: usize, micro_batch: usize) -> Option<News> {
        let position = *self.positions.get(&(goes_back, stage, micro_batch))?;
        let mut missing = lock(&self.missing);
        let missing = missing.get_mut(&position)?;
        *missing = missing.saturating_sub(1);
        (*missing == 0).then_some(News::Arrived(position))
    }

    /// Whether other processes run the same stages on other rows.
    pub(crate) fn has_replicas(&self) -> bool {
        self.remote.has_replicas()
    }

    /// The number of the call.
    pub(crate) fn number(&self) -> u64 {
        self.call
    }

    /// Tells all other processes that a step has failed here.
    pub(crate) fn has_failed(&self, step: usize) {
        self.remote.has_failed(self.call, step);
    }
}
