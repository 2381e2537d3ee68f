use std::cell::{Cell, RefCell};

use crate::random::StreamKey;
use crate::torch::restart_stream;

/// What a layer can know about the run it is part of.
#[derive(Debug)]
pub struct Context {
    training: bool,
    recomputing: bool,
    stage: usize,
    micro_batch: usize,
    path: RefCell<Vec<Segment>>,
    stream: Cell<StreamKey>,
}

/// One step of a layer's path.
#[derive(Clone, Copy, Debug)]
enum Segment {
    Name(&'static str),
    Index(usize),
}

impl Context {
    pub(crate) fn new(training: bool, recomputing: bool, stage: usize, micro_batch: usize, call_seed: u64) -> Self {
        Self {
            training,
            recomputing,
            stage,
            micro_batch,
            path: RefCell::default(),
            stream: Cell::new(StreamKey::new(call_seed, micro_batch)),
        }
    }

    /// Whether the pipeline is in training mode (dropout on, batch norm on the batch's statistics).
    pub fn is_training(&self) -> bool {
        self.training
    }

    /// Whether this is the second forward of a checkpointed micro-batch: what the first one did outside the graph must not be done again.
    pub fn is_recomputing(&self) -> bool {
        self.recomputing
    }

    /// The stage that runs, from 0.
    pub fn stage(&self) -> usize {
        self.stage
    }

    /// The micro-batch that runs, from 0.
    pub fn micro_batch(&self) -> usize {
        self.micro_batch
    }

    /// Where the child `name` of the running layer stands; for generated code.
    #[doc(hidden)]
    pub fn layer(&self, name: &'static str) -> At<'_> {
        At { cx: self, name, index: None }
    }

    #[doc(hidden)]
    pub fn layer_at(&self, name: &'static str, index: usize) -> At<'_> {
        At { cx: self, name, index: Some(index) }
    }

    /// The path of the layer that runs, or that was running when a panic unwound through it.
    pub(crate) fn path(&self) -> String {
        let text = |segment: &Segment| match segment {
            Segment::Name(name) => (*name).to_owned(),
            Segment::Index(index) => index.to_string(),
        };
        self.path.borrow().iter().map(text).collect::<Vec<_>>().join(".")
    }
}

/// A child's place in the model: its random stream and its name in errors.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct At<'a> {
    pub(crate) cx: &'a Context,
    name: &'static str,
    index: Option<usize>,
}

impl At<'_> {
    /// Runs `layer` as this child: on its own random stream, and named in errors. A panic leaves the path as it was at that moment.
    pub(crate) fn enter<T>(self, layer: impl FnOnce(&Context) -> T) -> T {
        let outer = self.cx.stream.get();
        let mut stream = outer.child(self.name);
        {
            let mut path = self.cx.path.borrow_mut();
            path.push(Segment::Name(self.name));
            if let Some(index) = self.index {
                stream = stream.element(index);
                path.push(Segment::Index(index));
            }
        }
        self.cx.stream.set(stream);
        restart_stream(stream.seed());

        let result = layer(self.cx);

        self.cx.stream.set(outer);
        let mut path = self.cx.path.borrow_mut();
        let above = path.len() - 1 - usize::from(self.index.is_some());
        path.truncate(above);
        result
    }
}
