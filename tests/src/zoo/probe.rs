//! What tests see of layers that run, and how they make them fail.

use std::sync::{Arc, Mutex, PoisonError};

use pipe_runtime::{Context, Layer, Tied};

/// How often a layer has run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passes {
    /// First passes.
    pub first: usize,
    /// Recomputations.
    pub again: usize,
}

/// Where a layer panics, after it has done its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The layer's number.
    pub layer: usize,
    /// The micro-batch's number.
    pub micro_batch: usize,
    /// In its recomputation, not in its first pass.
    pub recomputing: bool,
}

/// Counts the passes of a model's layers, and lets one of them fail. All handles are on the same.
#[derive(Clone, Debug, Default)]
pub struct Probe(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    passes: Vec<Passes>,
    fault: Option<Fault>,
}

impl Probe {
    fn with<T>(&self, body: impl FnOnce(&mut Seen) -> T) -> T {
        body(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The passes of each layer since the last time that this was asked.
    pub fn take(&self) -> Vec<Passes> {
        self.with(|seen| {
            let fresh = vec![Passes::default(); seen.passes.len()];
            std::mem::replace(&mut seen.passes, fresh)
        })
    }

    /// From now on, a layer fails there; with `None`, nowhere.
    pub fn fail(&self, fault: impl Into<Option<Fault>>) {
        self.with(|seen| seen.fault = fault.into());
    }

    /// The same layer under this probe, with the next number.
    pub fn watch<L>(&self, layer: L) -> Probed<L> {
        let number = self.with(|seen| {
            seen.passes.push(Passes::default());
            seen.passes.len() - 1
        });
        Probed { layer, number, probe: self.clone() }
    }

    fn passed(&self, number: usize, cx: &Context) {
        let here = Fault { layer: number, micro_batch: cx.micro_batch(), recomputing: cx.is_recomputing() };
        let fails = self.with(|seen| {
            let passes = &mut seen.passes[number];
            *(if cx.is_recomputing() { &mut passes.again } else { &mut passes.first }) += 1;
            seen.fault == Some(here)
        });
        assert!(!fails, "the layer fails on purpose");
    }
}

/// A layer under a [`Probe`].
#[derive(Debug)]
pub struct Probed<L> {
    layer: L,
    number: usize,
    probe: Probe,
}

impl<In, L: Layer<In>> Layer<In> for Probed<L> {
    type Out = L::Out;

    fn run(&self, input: In, cx: &Context) -> L::Out {
        let output = self.layer.run(input, cx);
        self.probe.passed(self.number, cx);
        output
    }
}

impl<L: Tied> Tied for Probed<L> {
    type Value = L::Value;

    fn tied(&self) -> L::Value {
        self.layer.tied()
    }
}
