//! A copy of the runtime's `Reading`s.

use std::marker::PhantomData;

use crate::__rt::{Context, Flow, Layer};

pub struct Reading1<'a, A>(PhantomData<&'a (A,)>);

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
        unreachable!()
    }

    pub fn pass<In, L, Out>(self, input: In, layer: &L, name: &'static str) -> Out
    where
        L: Layer<(In, A), Out = Out>,
    {
        unreachable!()
    }
}

pub struct Reading2<'a, A, B>(PhantomData<&'a (A, B)>);

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
        unreachable!()
    }

    pub fn pass<In, L, Out>(self, input: In, layer: &L, name: &'static str) -> Out
    where
        L: Layer<(In, A, B), Out = Out>,
    {
        unreachable!()
    }
}

pub struct Reading3<'a, A, B, C>(PhantomData<&'a (A, B, C)>);

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
        unreachable!()
    }

    pub fn pass<In, L, Out>(self, input: In, layer: &L, name: &'static str) -> Out
    where
        L: Layer<(In, A, B, C), Out = Out>,
    {
        unreachable!()
    }
}
