use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::carried::{Cell as CarriedCell, Cells};
use super::random::RngKey;
use super::state::Part;
use crate::torch::restart_rng;

/// What a layer can know about the run that it is part of.
#[derive(Debug)]
pub struct Context {
    pass: Pass,
    number: u64,
    /// The segment of the stage that is running, and whether it will be recomputed.
    segment: Cell<(usize, bool)>,
    path: RefCell<Vec<Segment>>,
    rng: Cell<RngKey>,
    /// For each seed, how often it was used. If another layer runs a layer twice, it draws other
    /// numbers the second time.
    started: RefCell<BTreeMap<u64, usize>>,
    observer: Option<Rc<dyn Observer>>,
    /// Where the call records the cells that its layers use; `None` if no call will be undone or
    /// recomputed.
    cells: Option<Arc<Cells>>,
}

/// Notified when a top-level layer starts and ends. Nested layers are not reported. `ends` is not
/// called for a layer that panics.
pub(crate) trait Observer: fmt::Debug {
    /// Called before the layer runs. `index` is its index in a repeated layer.
    fn starts(&self, name: &'static str, index: Option<usize>);

    /// Called after the layer has run.
    fn ends(&self);
}

/// The pass of a micro-batch through a stage.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pass {
    pub(crate) training: bool,
    pub(crate) recomputing: bool,
    pub(crate) stage: usize,
    pub(crate) micro_batch: usize,
    pub(crate) micro_batches: usize,
    /// The number of micro-batches of the replicas before this one.
    pub(crate) before: usize,
    /// The number that the call drew, from which its layers are seeded. Two calls may draw the same
    /// number.
    pub(crate) call_seed: u64,
    /// A unique number of the call.
    pub(crate) call: u64,
    /// Whether it is a first pass that will be recomputed.
    pub(crate) will_be_recomputed: bool,
}

/// A number that is unique in this process.
pub(crate) fn unique() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// One segment of a layer's path.
#[derive(Clone, Copy, Debug)]
enum Segment {
    Name(&'static str),
    Index(usize),
}

impl Context {
    pub(crate) fn new(pass: Pass) -> Self {
        let rng = Cell::new(RngKey::new(pass.call_seed, pass.before + pass.micro_batch));
        Self {
            segment: Cell::new((0, pass.will_be_recomputed)),
            pass,
            number: unique(),
            path: RefCell::default(),
            rng,
            started: RefCell::default(),
            observer: None,
            cells: None,
        }
    }

    /// A context outside of any pipeline, to run a layer alone, in a unit test for example: of the
    /// only micro-batch, in the first stage. Random numbers come from torch's own generator.
    ///
    /// ```
    /// use pipe_runtime::{Context, Layer};
    /// use tch::Tensor;
    ///
    /// struct Double;
    ///
    /// impl Layer<Tensor> for Double {
    ///     type Out = Tensor;
    ///
    ///     fn run(&self, x: Tensor, _cx: &Context) -> Tensor {
    ///         x * 2
    ///     }
    /// }
    ///
    /// let y = Double.run(Tensor::from(3), &Context::standalone(false));
    /// assert_eq!(i64::try_from(y).unwrap(), 6);
    /// ```
    pub fn standalone(training: bool) -> Self {
        Self::new(Pass {
            training,
            recomputing: false,
            stage: 0,
            micro_batch: 0,
            micro_batches: 1,
            before: 0,
            call_seed: 0,
            call: unique(),
            will_be_recomputed: false,
        })
    }

    /// The same context, with an observer.
    pub(crate) fn observed(self, observer: Rc<dyn Observer>) -> Self {
        Self { observer: Some(observer), ..self }
    }

    /// The same context, in a call that records the cells that its layers use.
    pub(crate) fn noting(self, cells: Arc<Cells>) -> Self {
        Self { cells: Some(cells), ..self }
    }

    /// Records a cell for the call, if the call records cells.
    pub(crate) fn uses_cell(&self, cell: Arc<dyn CarriedCell>) -> bool {
        if let Some(cells) = &self.cells {
            cells.add(self.pass.stage, cell);
        }
        self.cells.is_some()
    }

    /// A unique number of the call.
    pub(crate) fn call(&self) -> u64 {
        self.pass.call
    }

    /// A unique number of this pass.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Says which segment of the stage runs from now on, and whether this is a first pass of it
    /// that will be recomputed.
    pub(crate) fn enters_segment(&self, number: usize, will_be_recomputed: bool) {
        self.segment.set((number, will_be_recomputed));
    }

    /// The micro-batch, and the segment of the stage.
    pub(crate) fn part(&self) -> Part {
        (self.pass.micro_batch, self.segment.get().0)
    }

    /// Whether it is a first pass that will be recomputed.
    pub(crate) fn will_be_recomputed(&self) -> bool {
        self.segment.get().1
    }

    /// Whether the pipeline is in training mode: dropout is on, and batch norm uses the statistics
    /// of the batch.
    pub fn is_training(&self) -> bool {
        self.pass.training
    }

    /// Whether this is the second forward of a checkpointed micro-batch. Side effects of the first
    /// forward must not be repeated.
    pub fn is_recomputing(&self) -> bool {
        self.pass.recomputing
    }

    /// The stage, from 0.
    pub fn stage(&self) -> usize {
        self.pass.stage
    }

    /// The micro-batch, from 0.
    pub fn micro_batch(&self) -> usize {
        self.pass.micro_batch
    }

    /// The number of micro-batches of the call.
    pub fn micro_batches(&self) -> usize {
        self.pass.micro_batches
    }

    /// The place of the child `name` of the running layer.
    pub(crate) fn layer(&self, name: &'static str) -> At<'_> {
        At { cx: self, name, index: None }
    }

    /// The place of element `index` of the repeated layer `name`.
    pub(crate) fn layer_at(&self, name: &'static str, index: usize) -> At<'_> {
        At { cx: self, name, index: Some(index) }
    }

    /// The path of the running layer, or of the layer that was running when a panic unwound through
    /// it.
    pub(crate) fn path(&self) -> String {
        let text = |segment: &Segment| match segment {
            Segment::Name(name) => (*name).to_owned(),
            Segment::Index(index) => index.to_string(),
        };
        self.path.borrow().iter().map(text).collect::<Vec<_>>().join(".")
    }
}

/// The place of a child in the model, which determines its random number generator and its name in
/// errors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At<'a> {
    cx: &'a Context,
    name: &'static str,
    index: Option<usize>,
}

impl At<'_> {
    /// Runs `layer` as this child: with the child's random number generator and its name in errors.
    /// After a panic, the path stays as it was at that moment.
    pub(crate) fn enter<T>(self, layer: impl FnOnce(&Context) -> T) -> T {
        let outer = self.start();
        let result = layer(self.cx);
        self.end(outer);
        result
    }

    /// Enters the child. Returns the outer layer's key, for [`end`](Self::end).
    pub(crate) fn start(self) -> RngKey {
        let outer = self.cx.rng.get();
        let mut rng = outer.child(self.name);
        let observer = self.observer();
        {
            let mut path = self.cx.path.borrow_mut();
            path.push(Segment::Name(self.name));
            if let Some(index) = self.index {
                rng = rng.element(index);
                path.push(Segment::Index(index));
            }
        }
        let times =
            self.cx.started.borrow_mut().entry(rng.seed()).and_modify(|times| *times += 1).or_insert(0).to_owned();
        if times > 0 {
            rng = rng.element(times);
        }
        self.cx.rng.set(rng);
        restart_rng(rng.seed());
        if let Some(observer) = observer {
            observer.starts(self.name, self.index);
        }
        outer
    }

    /// Leaves the child.
    pub(crate) fn end(self, outer: RngKey) {
        self.cx.rng.set(outer);
        {
            let mut path = self.cx.path.borrow_mut();
            let above = path.len() - 1 - usize::from(self.index.is_some());
            path.truncate(above);
        }
        if let Some(observer) = self.observer() {
            observer.ends();
        }
    }

    /// The observer to notify of this child, if it is a top-level layer. Call this before the child
    /// is on the path.
    fn observer(&self) -> Option<&Rc<dyn Observer>> {
        self.cx.observer.as_ref().filter(|_| self.cx.path.borrow().is_empty())
    }
}
