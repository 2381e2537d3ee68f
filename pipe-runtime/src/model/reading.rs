//! What layers read of lent values. There is a type for each number of values, so that rustc finds
//! `pass` at once. It is copied into each call: for a reference, which is borrowed again each time,
//! rustc would take longer. They are written out, because users see `pass` in rustc's messages.

use std::fmt;

use super::{Context, Layer, pass};
use crate::flow::Flow;

/// A lent value. Its bound stands where it is made, and not at each layer that reads it: a value
/// that is no `Flow` is reported once.
struct Lent<'a, T> {
    value: &'a T,
    share: fn(&T) -> T,
}

impl<'a, T> Lent<'a, T> {
    fn new(value: &'a T) -> Self
    where
        T: Flow,
    {
        Self { value, share: T::share }
    }

    fn share(&self) -> T {
        (self.share)(self.value)
    }
}

// A derive would ask for values that can be copied.
impl<T> Copy for Lent<'_, T> {}

impl<T> Clone for Lent<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> fmt::Debug for Lent<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lent").finish_non_exhaustive()
    }
}

/// The run, and a lent value that layers read.
#[doc(hidden)]
#[derive(Debug)]
pub struct Reading1<'a, A> {
    a: Lent<'a, A>,
    cx: &'a Context,
}

impl<A> Copy for Reading1<'_, A> {}

impl<A> Clone for Reading1<'_, A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<'a, A> Reading1<'a, A> {
    pub fn new(a: &'a A, cx: &'a Context) -> Self
    where
        A: Flow,
    {
        Self { a: Lent::new(a), cx }
    }

    /// Passes `input` through the layer `name`, with handles to what it reads.
    pub fn pass<In, L, Out>(self, input: In, layer: &L, name: &'static str) -> Out
    where
        L: Layer<(In, A), Out = Out>,
    {
        pass((input, self.a.share()), layer, self.cx, name)
    }
}

/// The run, and two lent values that layers read.
#[doc(hidden)]
#[derive(Debug)]
pub struct Reading2<'a, A, B> {
    a: Lent<'a, A>,
    b: Lent<'a, B>,
    cx: &'a Context,
}

impl<A, B> Copy for Reading2<'_, A, B> {}

impl<A, B> Clone for Reading2<'_, A, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<'a, A, B> Reading2<'a, A, B> {
    pub fn new(a: &'a A, b: &'a B, cx: &'a Context) -> Self
    where
        A: Flow,
        B: Flow,
    {
        Self { a: Lent::new(a), b: Lent::new(b), cx }
    }

    /// Passes `input` through the layer `name`, with handles to what it reads.
    pub fn pass<In, L, Out>(self, input: In, layer: &L, name: &'static str) -> Out
    where
        L: Layer<(In, A, B), Out = Out>,
    {
        pass((input, self.a.share(), self.b.share()), layer, self.cx, name)
    }
}

/// The run, and three lent values that layers read.
#[doc(hidden)]
#[derive(Debug)]
pub struct Reading3<'a, A, B, C> {
    a: Lent<'a, A>,
    b: Lent<'a, B>,
    c: Lent<'a, C>,
    cx: &'a Context,
}

impl<A, B, C> Copy for Reading3<'_, A, B, C> {}

impl<A, B, C> Clone for Reading3<'_, A, B, C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<'a, A, B, C> Reading3<'a, A, B, C> {
    pub fn new(a: &'a A, b: &'a B, c: &'a C, cx: &'a Context) -> Self
    where
        A: Flow,
        B: Flow,
        C: Flow,
    {
        Self { a: Lent::new(a), b: Lent::new(b), c: Lent::new(c), cx }
    }

    /// Passes `input` through the layer `name`, with handles to what it reads.
    pub fn pass<In, L, Out>(self, input: In, layer: &L, name: &'static str) -> Out
    where
        L: Layer<(In, A, B, C), Out = Out>,
    {
        pass((input, self.a.share(), self.b.share(), self.c.share()), layer, self.cx, name)
    }
}
