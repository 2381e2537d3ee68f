//! The parts from which generated code builds a pipeline: stages that own their layers, and the
//! typed ports between the stages.

use std::any::Any;
use std::marker::PhantomData;

use super::merge::merged;
use super::ports::{Io, Port};
use super::routes::{Ends, Route};
use crate::flow::Flow;
use crate::model::{Context, Model};

/// The stages of a pipeline and the ports between them, as generated code declares them.
#[doc(hidden)]
pub struct Graph {
    /// For each port: the stages that it connects; `None` while the port is not declared.
    ends: Vec<Option<Ends>>,
    output: usize,
    /// The ports whose values cannot go to another process, with their types.
    local: Vec<(usize, &'static str)>,
    stages: Vec<Box<dyn Stage>>,
}

/// A stage: the layers it owns and how it runs them.
pub(crate) trait Stage: Send {
    fn run(&self, io: &mut Io<'_>, cx: &Context);

    /// Adds the layers of each annotated stage in it.
    fn into_layers(self: Box<Self>, layers: &mut Vec<Box<dyn Any + Send>>);
}

/// The function that runs a stage's layers on one micro-batch, with the ports `P`.
type Run<L, P> = fn(&L, P, &mut Io<'_>, &Context);

struct Body<L, P> {
    layers: L,
    ports: P,
    run: Run<L, P>,
}

impl<L, P> Stage for Body<L, P>
where
    L: Send + 'static,
    P: Copy + Send + 'static,
{
    fn run(&self, io: &mut Io<'_>, cx: &Context) {
        (self.run)(&self.layers, self.ports, io, cx);
    }

    fn into_layers(self: Box<Self>, layers: &mut Vec<Box<dyn Any + Send>>) {
        layers.push(Box::new(self.layers));
    }
}

impl Graph {
    pub(crate) fn new() -> Self {
        Self { ends: Vec::new(), output: 0, local: Vec::new(), stages: Vec::new() }
    }

    /// Declares the port on which the caller sends the input to the first stage.
    pub fn input<M: Model>(&mut self) -> Port<M::Input> {
        self.add(0, (None, Some(0)))
    }

    /// Declares port `number`, on which stage `from` sends a value to stage `to`. Ports are
    /// numbered in the order in which their values are received.
    pub fn port<T: Flow>(&mut self, number: usize, from: usize, to: usize) -> Port<T> {
        if !T::PORTABLE {
            self.local.push((number, std::any::type_name::<T>()));
        }
        self.add(number, (Some(from), Some(to)))
    }

    /// Declares port `number`, on which the last stage returns the output to the caller.
    pub fn output<M: Model>(&mut self, number: usize) -> Port<M::Output> {
        self.output = number;
        self.add(number, (None, None))
    }

    fn add<T>(&mut self, index: usize, ends: Ends) -> Port<T> {
        self.set_ends(index, ends);
        Port { index, value: PhantomData }
    }

    fn set_ends(&mut self, index: usize, ends: Ends) {
        if self.ends.len() <= index {
            self.ends.resize(index + 1, None);
        }
        self.ends[index] = Some(ends);
    }

    /// Adds the next stage, with the layers it owns, the ports it uses, and the function that runs
    /// it on one micro-batch.
    pub fn stage<L, P>(&mut self, layers: L, ports: P, run: Run<L, P>)
    where
        L: Send + 'static,
        P: Copy + Send + 'static,
    {
        self.push(Box::new(Body { layers, ports, run }));
    }

    fn push(&mut self, stage: Box<dyn Stage>) {
        self.stages.push(stage);
    }

    /// Returns the stages and the routes, once all are declared. `stage_of` has the stage of each
    /// annotated stage; consecutive ones may be merged.
    pub(crate) fn finish(self, stage_of: &[usize]) -> (Vec<Box<dyn Stage>>, Vec<Route>) {
        let ends = self.ends.into_iter().enumerate().map(|(index, ends)| {
            let (from, to) = ends.expect("generated code declares all ports");
            (if index == self.output { self.stages.len().checked_sub(1) } else { from }, to)
        });
        let mut routes = Route::all(ends);
        for route in &mut routes {
            route.from = route.from.map(|stage| stage_of[stage]);
            route.to = route.to.map(|stage| stage_of[stage]);
        }
        for (port, type_name) in self.local {
            routes[port].local = Some(type_name);
        }
        (merged(self.stages, stage_of), routes)
    }
}

/// The layers of the stages, from which the model is reassembled.
#[doc(hidden)]
pub struct Layers(std::vec::IntoIter<Box<dyn Any + Send>>);

impl Layers {
    pub(crate) fn new(stages: Vec<Box<dyn Stage>>) -> Self {
        let mut layers = Vec::new();
        stages.into_iter().for_each(|stage| stage.into_layers(&mut layers));
        Self(layers.into_iter())
    }

    /// Takes the layers of the next annotated stage.
    ///
    /// # Panics
    ///
    /// If no stage is left, or if its layers are not of type `L`. Generated code does neither.
    pub fn take<L: 'static>(&mut self) -> L {
        let layers = self.0.next().expect("generated code takes each stage's layers once");
        *layers.downcast().expect("generated code takes what it put in")
    }
}
