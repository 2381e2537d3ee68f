//! Arrays and `Vec`s of layers. They run in order, and in parts if they are spread over stages.

use super::context::Context;
use super::layer::Layer;
use super::plan::Split;
use crate::error::{Error, Result};
use crate::flow::Flow;

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
        Repeated { first: self.first, layers: self.layers.into_iter().map(change).collect() }
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
        Repeated { first: range.start, layers: layers.by_ref().take(range.len()).collect() }
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
}

impl<L> Each for Repeated<L> {
    type Layer = L;

    fn first(&self) -> usize {
        self.first
    }

    fn layers(&self) -> &[L] {
        &self.layers
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

/// The lent values that repeated layers read: `(&memory, &mask)`.
#[doc(hidden)]
pub trait Reads<T> {
    /// What each layer takes: `(x, memory, mask)`.
    type Input;

    /// Adds other handles of the values to a layer's input.
    fn beside(&self, x: T) -> Self::Input;
}

macro_rules! reads {
    ($($value:ident)+) => {
        impl<T, $($value: Flow),+> Reads<T> for ($(&$value,)+) {
            type Input = (T, $($value),+);

            #[allow(non_snake_case, reason = "the values are called as their types are")]
            fn beside(&self, x: T) -> Self::Input {
                let ($($value,)+) = self;
                (x, $($value.share()),+)
            }
        }
    };
}

/// Layers that read nothing.
impl<T> Reads<T> for () {
    type Input = T;

    fn beside(&self, x: T) -> T {
        x
    }
}

reads!(A);
reads!(A B);
reads!(A B C);
reads!(A B C D);
reads!(A B C D E);
reads!(A B C D E F);
reads!(A B C D E F G);
reads!(A B C D E F G H);

/// Runs repeated layers, each of which takes lent values beside its input.
#[doc(hidden)]
pub fn run_each_reading<T, R: Reads<T>, E: Each>(input: T, read: R, each: &E, cx: &Context, name: &'static str) -> T
where
    E::Layer: Layer<R::Input, Out = T>,
{
    let numbered = each.layers().iter().enumerate();
    numbered.fold(input, |x, (offset, child)| {
        cx.layer_at(name, each.first() + offset).enter(|cx| child.run(read.beside(x), cx))
    })
}

/// Passes `input` through one layer of a part, and enters its place in the model.
#[doc(hidden)]
pub fn run_one<T, L>(input: T, part: &Repeated<L>, number: usize, cx: &Context, name: &'static str) -> T
where
    L: Layer<T, Out = T>,
{
    run_one_reading(input, part, number, cx, name)
}

/// The same for a layer that takes more than its input.
#[doc(hidden)]
pub fn run_one_reading<In, T, L>(input: In, part: &Repeated<L>, number: usize, cx: &Context, name: &'static str) -> T
where
    L: Layer<In, Out = T>,
{
    cx.layer_at(name, part.first + number).enter(|cx| part.layers[number].run(input, cx))
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
