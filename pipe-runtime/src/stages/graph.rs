//! The parts from which generated code builds a pipeline: stages that own their layers, and the
//! typed ports between the stages.

use std::any::Any;
use std::marker::PhantomData;

use super::pieces::{MarkedPiece, Piece, StageBody};
use super::ports::{Io, Port, Ports};
use super::routes::{Ends, Route};
use crate::flow::Flow;
use crate::model::{Context, Model, Repeated};

/// The stages of a pipeline and the ports between them, as generated code declares them.
#[doc(hidden)]
pub struct Graph {
    /// For each port: the stages that it connects; `None` while the port is not declared.
    ends: Vec<Option<Ends>>,
    output: usize,
    /// The ports whose values cannot go to another process, with their types.
    local: Vec<(usize, &'static str)>,
    pieces: Vec<Declared>,
    /// The number of ports between elements of repeated layers.
    inner: usize,
}

/// A declared piece.
struct Declared {
    piece: Box<dyn Piece>,
    /// The annotated stage that it belongs to.
    stage: usize,
    /// Whether the backward recomputes each of its elements.
    recomputed: Vec<bool>,
}

/// The function that runs a piece's layers on one micro-batch, with the ports `P`.
type Run<L, P> = fn(&L, P, &mut Io<'_>, &Context);

struct Body<L, P> {
    layers: L,
    ports: P,
    run: Run<L, P>,
}

impl<L, P> Piece for Body<L, P>
where
    L: Send + 'static,
    P: Copy + Send + 'static,
{
    fn run(&self, _: usize, io: &mut Io<'_>, cx: &Context) {
        (self.run)(&self.layers, self.ports, io, cx);
    }

    fn into_layers(self: Box<Self>, layers: &mut Vec<Box<dyn Any + Send>>) {
        layers.push(Box::new(self.layers));
    }
}

/// The function that runs one element of repeated layers, or what comes before the first one and
/// after the last one.
type RunElement<L, T, P> = fn(T, Element<'_, L>, P, &mut Io<'_>, &Context) -> T;

/// How what arrives becomes what flows between repeated layers, and that what leaves.
type Around<In, T, Out> = (fn(In) -> T, fn(T) -> Out);

/// What [`RunElement`] runs.
#[doc(hidden)]
pub enum Element<'e, L> {
    /// What comes before all elements.
    Before,
    /// The element with this number of this part.
    One(&'e Repeated<L>, usize),
    /// What comes after all elements of this part.
    After(&'e Repeated<L>),
}

/// Repeated layers of which each is an element.
struct EachBody<L, In, T, Out, P> {
    layers: (Repeated<L>,),
    /// The main input and output.
    flow: (Port<In>, Port<Out>),
    around: Around<In, T, Out>,
    /// The port after the first element; the others follow.
    inner: usize,
    ports: P,
    run: RunElement<L, T, P>,
}

impl<L, In, T, Out, P> Piece for EachBody<L, In, T, Out, P>
where
    L: Send + 'static,
    In: Flow,
    T: Flow,
    Out: Flow,
    P: Copy + Send + 'static,
{
    fn elements(&self) -> usize {
        self.layers.0.count().max(1)
    }

    fn first(&self) -> usize {
        self.layers.0.first()
    }

    fn run(&self, element: usize, io: &mut Io<'_>, cx: &Context) {
        let between = |number: usize| Port { index: self.inner + number, value: PhantomData };
        let last = element + 1 == self.elements();
        let mut x = match element {
            0 => {
                let x = (self.around.0)(io.receive(self.flow.0));
                (self.run)(x, Element::Before, self.ports, io, cx)
            }
            _ => io.receive(between(element - 1)),
        };
        if element < self.layers.0.count() {
            x = (self.run)(x, Element::One(&self.layers.0, element), self.ports, io, cx);
        }
        match last {
            true => {
                let x = (self.run)(x, Element::After(&self.layers.0), self.ports, io, cx);
                io.send(self.flow.1, (self.around.1)(x));
            }
            false => io.send(between(element), x),
        }
    }

    fn into_layers(self: Box<Self>, layers: &mut Vec<Box<dyn Any + Send>>) {
        layers.push(Box::new(self.layers));
    }
}

/// The number of the first port between elements of repeated layers.
const INNER: usize = 1 << 32;

impl Graph {
    pub(crate) fn new() -> Self {
        Self { ends: Vec::new(), output: 0, local: Vec::new(), pieces: Vec::new(), inner: INNER }
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

    /// Declares ports on which stage `from` sends the same value to several stages: the number of
    /// each, and the stage that receives there.
    pub fn ports<T: Flow>(&mut self, from: usize, ends: &'static [(usize, usize)]) -> Ports<T> {
        for &(number, to) in ends {
            self.port::<T>(number, from, to);
        }
        Ports { ends, value: PhantomData }
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
    /// it on one micro-batch. It has one piece.
    pub fn stage<L, P>(&mut self, layers: L, ports: P, run: Run<L, P>)
    where
        L: Send + 'static,
        P: Copy + Send + 'static,
    {
        self.push(Box::new(Body { layers, ports, run }));
    }

    /// Adds repeated layers as the next stage, with `run` for each of them.
    pub fn stage_of_each<L, In, T, Out, P>(
        &mut self,
        layers: Repeated<L>,
        flow: (Port<In>, Port<Out>),
        around: Around<In, T, Out>,
        ports: P,
        run: RunElement<L, T, P>,
    ) where
        L: Send + 'static,
        In: Flow,
        T: Flow,
        Out: Flow,
        P: Copy + Send + 'static,
    {
        let inner = self.inner;
        self.inner += layers.count();
        self.push(Box::new(EachBody { layers: (layers,), flow, around, inner, ports, run }));
    }

    /// The stage that was added last belongs to the one before it, as another piece of it.
    pub fn goes_on(&mut self) {
        if let [.., before, last] = self.pieces.as_mut_slice() {
            last.stage = before.stage;
        }
    }

    /// The backward recomputes the piece that was added last; of repeated layers, it recomputes
    /// those whose numbers among all of their field `which` accepts.
    pub fn recompute(&mut self, which: impl Fn(usize) -> bool) {
        if let Some(Declared { piece, recomputed, .. }) = self.pieces.last_mut() {
            let first = piece.first();
            *recomputed = (first..first + piece.elements()).map(which).collect();
        }
    }

    fn push(&mut self, piece: Box<dyn Piece>) {
        let stage = self.pieces.last().map_or(0, |last| last.stage + 1);
        let recomputed = vec![false; piece.elements()];
        self.pieces.push(Declared { piece, stage, recomputed });
    }

    /// Returns the stages and the routes, once all are declared. `stage_of` has the stage of each
    /// annotated stage; consecutive ones may be merged.
    pub(crate) fn finish(self, stage_of: &[usize]) -> (Vec<StageBody>, Vec<Route>) {
        let stage_of: Vec<usize> = self.pieces.iter().map(|piece| stage_of[piece.stage]).collect();
        let ends = self.ends.into_iter().enumerate().map(|(index, ends)| {
            let (from, to) = ends.expect("generated code declares all ports");
            (if index == self.output { self.pieces.len().checked_sub(1) } else { from }, to)
        });
        let mut routes = Route::all(ends);
        for route in &mut routes {
            route.from = route.from.map(|stage| stage_of[stage]);
            route.to = route.to.map(|stage| stage_of[stage]);
        }
        for (port, type_name) in self.local {
            routes[port].local = Some(type_name);
        }
        let mut stages: Vec<Vec<MarkedPiece>> = Vec::new();
        for (Declared { piece, recomputed, .. }, stage) in self.pieces.into_iter().zip(stage_of) {
            stages.resize_with(stages.len().max(stage + 1), Vec::new);
            stages[stage].push((piece, recomputed));
        }
        (stages.into_iter().map(StageBody::new).collect(), routes)
    }
}

/// The layers of the stages, from which the model is reassembled.
#[doc(hidden)]
pub struct Layers(std::vec::IntoIter<Box<dyn Any + Send>>);

impl Layers {
    pub(crate) fn new(stages: Vec<StageBody>) -> Self {
        let mut layers = Vec::new();
        stages.into_iter().for_each(|stage| stage.into_layers(&mut layers));
        Self(layers.into_iter())
    }

    /// Takes the layers of the next piece.
    ///
    /// # Panics
    ///
    /// If no piece is left, or if its layers are not of type `L`. Generated code does neither.
    pub fn take<L: 'static>(&mut self) -> L {
        let layers = self.0.next().expect("generated code takes each piece's layers once");
        *layers.downcast().expect("generated code takes what it put in")
    }
}
