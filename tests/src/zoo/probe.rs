//! Probes that count the passes of layers and make layers fail.

use std::sync::{Arc, Mutex, PoisonError};

use pipe_runtime::{Context, Layer, Tied};

/// Numbers of passes of a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passes {
    /// First passes.
    pub first: usize,
    /// Recomputations.
    pub again: usize,
}

/// Place at which a layer panics, after it has done its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Number of the layer.
    pub layer: usize,
    /// Number of the micro-batch.
    pub micro_batch: usize,
    /// Whether the layer panics in the recomputation instead of the first pass.
    pub recomputing: bool,
}

/// Counts the passes of a model's layers, and makes one of them fail. Clones share the same state.
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

    /// Returns the passes of each layer since the last call.
    pub fn take(&self) -> Vec<Passes> {
        self.with(|seen| {
            let fresh = vec![Passes::default(); seen.passes.len()];
            std::mem::replace(&mut seen.passes, fresh)
        })
    }

    /// Makes a layer fail at this place from now on. With `None`, no layer fails.
    pub fn fail(&self, fault: impl Into<Option<Fault>>) {
        self.with(|seen| seen.fault = fault.into());
    }

    /// Wraps a layer so that this probe watches it, under the next number.
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

/// A layer that a [`Probe`] watches.
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
