//! Arrays and `Vec`s of layers. They run in order, and in parts if they are spread over stages.

use super::context::Context;
use super::layer::Layer;
use super::plan::Split;
use crate::error::{Error, Result};

/// An array or a `Vec` of layers.
pub trait Repeat {
    /// The type of the repeated layer.
    type Layer;

    /// Returns the layers, in order.
    fn into_layers(self) -> Vec<Self::Layer>;

    /// Makes the container again, from as many layers as `into_layers` returned.
    fn from_layers(layers: Vec<Self::Layer>) -> Self;
}

impl<L> Repeat for Vec<L> {
    type Layer = L;

    fn into_layers(self) -> Vec<L> {
        self
    }

    fn from_layers(layers: Vec<L>) -> Self {
        layers
    }
}

impl<L, const N: usize> Repeat for [L; N] {
    type Layer = L;

    fn into_layers(self) -> Vec<L> {
        self.into()
    }

    fn from_layers(layers: Vec<L>) -> Self {
        match layers.try_into() {
            Ok(array) => array,
            Err(layers) => panic!("{} layers where the array has {N}", layers.len()),
        }
    }
}

/// The part of a repeated layer that a stage owns.
#[doc(hidden)]
#[derive(Debug)]
pub struct Repeated<L> {
    /// The index of its first layer.
    first: usize,
    layers: Vec<L>,
    /// The number of layers of all parts.
    total: usize,
}

impl<L> Repeated<L> {
    /// The number of layers of this part.
    pub(crate) fn count(&self) -> usize {
        self.layers.len()
    }

    /// The index of the first of them among all layers.
    pub(crate) fn first(&self) -> usize {
        self.first
    }

    /// The same part, with converted layers.
    pub(crate) fn map<K>(self, change: impl FnMut(L) -> K) -> Repeated<K> {
        Repeated { first: self.first, layers: self.layers.into_iter().map(change).collect(), total: self.total }
    }
}

/// Divides repeated layers into parts, one for each stage that runs some of them.
#[doc(hidden)]
pub fn spread<R: Repeat, const PARTS: usize>(
    repeated: R,
    name: &'static str,
    split: Split,
) -> Result<[Repeated<R::Layer>; PARTS]> {
    let layers = repeated.into_layers();
    if let Some(misfit) = split.misfit(name, layers.len()) {
        return Err(Error::Setting(misfit));
    }
    let length = layers.len();
    let mut layers = layers.into_iter();
    Ok(std::array::from_fn(|part| {
        let range = split.range(part, length);
        Repeated { first: range.start, layers: layers.by_ref().take(range.len()).collect(), total: length }
    }))
}

/// Joins the parts again: the inverse of [`spread`].
#[doc(hidden)]
pub fn gather_parts<R: Repeat, const PARTS: usize>(parts: [Repeated<R::Layer>; PARTS]) -> R {
    R::from_layers(parts.into_iter().flat_map(|part| part.layers).collect())
}

/// A collection of layers that run one after the other: a part in a stage, or all of them in an
/// unpipelined run.
#[doc(hidden)]
pub trait Each {
    type Layer;

    /// The index of the first layer in the whole.
    fn first(&self) -> usize;

    /// The layers, in order.
    fn layers(&self) -> &[Self::Layer];

    /// The number of layers of the whole.
    fn total(&self) -> usize {
        self.layers().len()
    }
}

impl<L> Each for Repeated<L> {
    type Layer = L;

    fn first(&self) -> usize {
        self.first
    }

    fn layers(&self) -> &[L] {
        &self.layers
    }

    fn total(&self) -> usize {
        self.total
    }
}

impl<L> Each for Vec<L> {
    type Layer = L;

    fn first(&self) -> usize {
        0
    }

    fn layers(&self) -> &[L] {
        self
    }
}

impl<L, const N: usize> Each for [L; N] {
    type Layer = L;

    fn first(&self) -> usize {
        0
    }

    fn layers(&self) -> &[L] {
        self
    }
}

/// Runs repeated layers in order. The path of each is `name.index`.
#[doc(hidden)]
pub fn run_each<T, E: Each>(input: T, each: &E, cx: &Context, name: &'static str) -> T
where
    E::Layer: Layer<T, Out = T>,
{
    let numbered = each.layers().iter().enumerate();
    numbered.fold(input, |x, (offset, child)| cx.layer_at(name, each.first() + offset).enter(|cx| child.run(x, cx)))
}

/// Runs repeated layers in order. Each gets the state that the one before it has left, and `run`
/// runs it.
#[doc(hidden)]
pub fn each<S, E: Each>(
    state: S,
    each: &E,
    cx: &Context,
    name: &'static str,
    mut run: impl FnMut(S, &E::Layer, &Context) -> S,
) -> S {
    let numbered = each.layers().iter().enumerate();
    numbered.fold(state, |state, (offset, child)| {
        cx.layer_at(name, each.first() + offset).enter(|cx| run(state, child, cx))
    })
}

/// Runs one layer of a part, in the same way.
#[doc(hidden)]
pub fn one<S, L>(
    state: S,
    part: &Repeated<L>,
    number: usize,
    cx: &Context,
    name: &'static str,
    run: impl FnOnce(S, &L, &Context) -> S,
) -> S {
    cx.layer_at(name, part.first + number).enter(|cx| run(state, &part.layers[number], cx))
}

/// Runs a layer whose place in the model was entered.
#[doc(hidden)]
pub fn run<L, In, Out>(input: In, layer: &L, cx: &Context) -> Out
where
    L: Layer<In, Out = Out>,
{
    layer.run(input, cx)
}

/// Passes `input` through one layer of a part, and enters its place in the model.
#[doc(hidden)]
pub fn run_one<T, L>(input: T, part: &Repeated<L>, number: usize, cx: &Context, name: &'static str) -> T
where
    L: Layer<T, Out = T>,
{
    one(input, part, number, cx, name, |input, layer, cx| layer.run(input, cx))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back_whole() {
        let parts: [Repeated<char>; 2] = spread(['a', 'b', 'c'], "letters", Split::Evenly(2)).unwrap();
        assert_eq!((parts[0].first, parts[1].first), (0, 2));
        assert_eq!(gather_parts::<[char; 3], 2>(parts), ['a', 'b', 'c']);
    }

    #[test]
    fn too_few_layers_are_an_error() {
        let error = spread::<_, 3>(vec!['a', 'b'], "letters", Split::Evenly(3)).unwrap_err().to_string();
        assert_eq!(error, "`letters` has 2 layers, too few for 3 devices: every stage needs a layer");
    }
}
