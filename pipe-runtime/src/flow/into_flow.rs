use std::sync::Arc;

use tch::Tensor;

use super::{Along, Each, Flow, PerRow, Replicate, Rows};

/// A value that a caller can pass where a pipeline takes a `T`: a `T`, or the same by reference.
/// So `forward(x)`, `forward(&x)` and `forward((&a, Some(&b)))` all work.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an input of this pipeline, which takes `{T}`",
    label = "expected `{T}`, or references to its tensors"
)]
pub trait IntoFlow<T: Flow> {
    /// Converts to the owned value. Its tensors share their memory with the caller's.
    fn into_flow(self) -> T;
}

impl IntoFlow<Tensor> for Tensor {
    fn into_flow(self) -> Tensor {
        self
    }
}

impl IntoFlow<Tensor> for &Tensor {
    fn into_flow(self) -> Tensor {
        self.shallow_clone()
    }
}

impl<T: Flow, U: IntoFlow<T>> IntoFlow<Replicate<T>> for Replicate<U> {
    fn into_flow(self) -> Replicate<T> {
        Replicate(self.0.into_flow())
    }
}

impl<const DIM: usize, U: IntoFlow<Tensor>> IntoFlow<Along<DIM>> for Along<DIM, U> {
    fn into_flow(self) -> Along<DIM> {
        Along(self.0.into_flow())
    }
}

impl<const K: usize, U: IntoFlow<Tensor>> IntoFlow<PerRow<K>> for PerRow<K, U> {
    fn into_flow(self) -> PerRow<K> {
        PerRow(self.0.into_flow())
    }
}

impl<T: Flow, U: IntoFlow<T>> IntoFlow<Rows<T>> for Rows<U> {
    fn into_flow(self) -> Rows<T> {
        Rows(self.0.into_flow())
    }
}

impl<T: Flow, U: IntoFlow<T>> IntoFlow<Each<T>> for Each<U> {
    fn into_flow(self) -> Each<T> {
        Each(self.0.into_flow())
    }
}

macro_rules! shared {
    ($(($($generics:tt)*) $type:ty),* $(,)?) => {$(
        impl<$($generics)*> IntoFlow<$type> for &$type {
            fn into_flow(self) -> $type {
                self.share()
            }
        }
    )*};
}

shared!(
    (T: Flow) Replicate<T>,
    (const DIM: usize) Along<DIM>,
    (const K: usize) PerRow<K>,
    (T: Flow) Rows<T>,
    (T: Flow) Each<T>,
);

impl<T: Flow, U: IntoFlow<T>> IntoFlow<Option<T>> for Option<U> {
    fn into_flow(self) -> Option<T> {
        self.map(U::into_flow)
    }
}

impl<T: Flow, U: IntoFlow<T>> IntoFlow<Vec<T>> for Vec<U> {
    fn into_flow(self) -> Vec<T> {
        self.into_iter().map(U::into_flow).collect()
    }
}

impl<'a, T: Flow> IntoFlow<Vec<T>> for &'a [T]
where
    &'a T: IntoFlow<T>,
{
    fn into_flow(self) -> Vec<T> {
        self.iter().map(IntoFlow::into_flow).collect()
    }
}

impl<T: Flow, U: IntoFlow<T>, const N: usize> IntoFlow<[T; N]> for [U; N] {
    fn into_flow(self) -> [T; N] {
        self.map(U::into_flow)
    }
}

impl<T: Send + Sync + 'static> IntoFlow<Arc<T>> for Arc<T> {
    fn into_flow(self) -> Arc<T> {
        self
    }
}

macro_rules! itself {
    ($($type:ty),*) => {$(
        impl IntoFlow<$type> for $type {
            fn into_flow(self) -> $type {
                self
            }
        }
    )*};
}

itself!(bool, char, i8, i16, i32, i64, i128, isize, u8, u16, u32, u64, u128, usize, f32, f64, String);

impl IntoFlow<String> for &str {
    fn into_flow(self) -> String {
        self.to_owned()
    }
}

macro_rules! tuples {
    ($(($($name:ident $from:ident),*)),* $(,)?) => {$(
        impl<$($name: Flow, $from: IntoFlow<$name>),*> IntoFlow<($($name,)*)> for ($($from,)*) {
            #[allow(non_snake_case, clippy::unused_unit)]
            fn into_flow(self) -> ($($name,)*) {
                let ($($from,)*) = self;
                ($($from.into_flow(),)*)
            }
        }
    )*};
}

tuples!(
    (),
    (A P),
    (A P, B Q),
    (A P, B Q, C R),
    (A P, B Q, C R, D S),
    (A P, B Q, C R, D S, E T),
    (A P, B Q, C R, D S, E T, F U),
    (A P, B Q, C R, D S, E T, F U, G V),
    (A P, B Q, C R, D S, E T, F U, G V, H W),
    (A P, B Q, C R, D S, E T, F U, G V, H W, I X),
    (A P, B Q, C R, D S, E T, F U, G V, H W, I X, J Y),
    (A P, B Q, C R, D S, E T, F U, G V, H W, I X, J Y, K Z),
    (A P, B Q, C R, D S, E T, F U, G V, H W, I X, J Y, K Z, L ZZ),
);
