//! What generated code builds a pipeline from: stages that own their layers, and typed ports between them.

use std::any::Any;
use std::marker::PhantomData;

use crate::call::Io;
use crate::{Context, Model};

/// Where a value goes from one stage to another.
#[doc(hidden)]
#[derive(Debug)]
pub struct Port<T> {
    pub(crate) index: usize,
    value: PhantomData<fn() -> T>,
}

impl<T> Clone for Port<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Port<T> {}

/// The stages of a pipeline and the ports between them, as generated code declares them.
#[doc(hidden)]
pub struct Graph {
    /// By port; empty where a port is not declared yet.
    routes: Vec<Option<Route>>,
    output: usize,
    stages: Vec<Box<dyn Stage>>,
}

/// Which stage sends through a port and which receives. Ports are numbered in the order in which they are received, which is the order in
/// which the run in place would use their values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// `None`: the caller.
    pub(crate) from: Option<usize>,
    /// `None`: the caller.
    pub(crate) to: Option<usize>,
}

/// A stage: the layers it owns and how it runs them.
pub(crate) trait Stage: Send {
    fn run(&self, io: &mut Io<'_>, cx: &Context);

    fn into_layers(self: Box<Self>) -> Box<dyn Any + Send>;
}

/// Runs a stage's layers on one micro-batch, between ports `P`.
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

    fn into_layers(self: Box<Self>) -> Box<dyn Any + Send> {
        Box::new(self.layers)
    }
}

impl Graph {
    pub(crate) fn new() -> Self {
        Self { routes: Vec::new(), output: 0, stages: Vec::new() }
    }

    /// What the caller hands to the first stage.
    pub fn input<M: Model>(&mut self) -> Port<M::Input> {
        self.add(0, Route { from: None, to: Some(0) })
    }

    /// What stage `from` sends to stage `to`: the value number `number`, in the order in which they are received.
    pub fn port<T>(&mut self, number: usize, from: usize, to: usize) -> Port<T> {
        self.add(number, Route { from: Some(from), to: Some(to) })
    }

    /// What the last stage gives back to the caller.
    pub fn output<M: Model>(&mut self, number: usize) -> Port<M::Output> {
        self.output = number;
        self.add(number, Route { from: None, to: None })
    }

    fn add<T>(&mut self, index: usize, route: Route) -> Port<T> {
        self.set_route(index, route);
        Port { index, value: PhantomData }
    }

    fn set_route(&mut self, index: usize, route: Route) {
        if self.routes.len() <= index {
            self.routes.resize(index + 1, None);
        }
        self.routes[index] = Some(route);
    }

    /// The next stage: the layers it owns, the ports it uses, and how it runs on one micro-batch.
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

    /// The stages and the routes, complete.
    pub(crate) fn finish(self) -> (Vec<Box<dyn Stage>>, Vec<Route>) {
        let route = |(index, route): (usize, Option<Route>)| {
            let route = route.expect("generated code declares all ports");
            let from = if index == self.output { self.stages.len().checked_sub(1) } else { route.from };
            Route { from, ..route }
        };
        let routes = self.routes.into_iter().enumerate().map(route).collect();
        (self.stages, routes)
    }
}

/// The layers of the stages, on their way back into the model.
#[doc(hidden)]
pub struct Layers(std::vec::IntoIter<Box<dyn Any + Send>>);

impl Layers {
    pub(crate) fn new(stages: Vec<Box<dyn Stage>>) -> Self {
        Self(stages.into_iter().map(Stage::into_layers).collect::<Vec<_>>().into_iter())
    }

    /// Those of the next stage.
    pub fn take<L: 'static>(&mut self) -> L {
        let layers = self.0.next().expect("generated code takes each stage's layers once");
        *layers.downcast().expect("generated code takes what it put in")
    }
}
