//! Probes that count the passes of layers and make layers fail.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

use pipe_runtime::{Context, Layer, Tied};
use tch::Tensor;

/// Numbers of passes of a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passes {
    /// First passes.
    pub first: usize,
    /// Recomputations.
    pub again: usize,
}

/// Place at which a layer fails, and how it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Number of the layer.
    pub layer: usize,
    /// Number of the micro-batch.
    pub micro_batch: usize,
    /// Whether the layer fails in the recomputation instead of the first pass.
    pub recomputing: bool,
    /// How it fails.
    pub how: How,
}

/// How a layer, or a loss, fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum How {
    /// It panics after it has done its work.
    Panic,
    /// It panics before it has done anything.
    PanicBefore,
    /// It panics with a value that is no text.
    Payload,
    /// It calls libtorch with a shape that cannot be.
    Torch,
    /// Its output lacks a column, which fails in a later layer or in the loss.
    Shape,
    /// Its output is right, and its backward fails.
    Backward,
}

impl How {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Panic, Self::PanicBefore, Self::Payload, Self::Torch, Self::Shape, Self::Backward];

    /// Fails, if it does so before the layer has done its work.
    pub fn before(self) {
        match self {
            Self::PanicBefore => panic!("{ON_PURPOSE}"),
            Self::Torch => drop(Tensor::from(0).reshape([2])),
            Self::Panic | Self::Payload | Self::Shape | Self::Backward => {}
        }
    }

    /// Fails, or spoils this output, if it does so after the layer has done its work.
    pub fn after(self, output: &mut Tensor) {
        match self {
            Self::Panic => panic!("{ON_PURPOSE}"),
            Self::Payload => std::panic::panic_any(7),
            Self::Shape => *output = output.narrow(-1, 0, output.size().last().map_or(0, |columns| columns - 1)),
            Self::Backward => {
                // Autograd has saved the factor, and sees in the backward that it was written.
                let factor = output.ones_like();
                *output = &*output * &factor;
                let _written = factor.detach().fill_(1);
            }
            Self::PanicBefore | Self::Torch => {}
        }
    }
}

/// The message of a panic on purpose.
pub const ON_PURPOSE: &str = "this fails on purpose";

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

    /// How the layer fails in the pass that begins, if it does.
    fn begin(&self, number: usize, cx: &Context) -> Option<How> {
        let fault = self.with(|seen| seen.fault)?;
        let is_here = fault.layer == number && fault.micro_batch == cx.micro_batch();
        (is_here && fault.recomputing == cx.is_recomputing()).then_some(fault.how)
    }

    fn end(&self, number: usize, cx: &Context) {
        self.with(|seen| {
            let passes = &mut seen.passes[number];
            *(if cx.is_recomputing() { &mut passes.again } else { &mut passes.first }) += 1;
        });
    }
}

/// A layer that a [`Probe`] watches.
#[derive(Debug)]
pub struct Probed<L> {
    layer: L,
    number: usize,
    probe: Probe,
}

impl<In, L: Layer<In, Out: 'static>> Layer<In> for Probed<L> {
    type Out = L::Out;

    fn run(&self, input: In, cx: &Context) -> L::Out {
        let how = self.probe.begin(self.number, cx);
        how.into_iter().for_each(How::before);
        let mut output = self.layer.run(input, cx);
        self.probe.end(self.number, cx);
        if let Some(how) = how {
            how.after(first_tensor(&mut output).expect("a layer that fails gives a tensor"));
        }
        output
    }
}

/// The output of a layer, or of one that adds to a sum.
fn first_tensor(output: &mut dyn Any) -> Option<&mut Tensor> {
    if output.is::<(Tensor, Tensor)>() {
        return output.downcast_mut().map(|(first, _): &mut (Tensor, Tensor)| first);
    }
    output.downcast_mut()
}

impl<L: Tied> Tied for Probed<L> {
    type Value = L::Value;

    fn tied(&self) -> L::Value {
        self.layer.tied()
    }
}
