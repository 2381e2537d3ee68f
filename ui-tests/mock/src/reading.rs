//! A copy of the runtime's `Reading`s.

use std::marker::PhantomData;

use crate::__rt::{Context, Flow, Layer};

macro_rules! reading {
    ($name:ident: $($value:ident: $type:ident),+) => {
        pub struct $name<'a, $($type),+>(PhantomData<&'a ($($type,)+)>);

        impl<$($type),+> Copy for $name<'_, $($type),+> {}

        impl<$($type),+> Clone for $name<'_, $($type),+> {
            fn clone(&self) -> Self {
                *self
            }
        }

        impl<'a, $($type),+> $name<'a, $($type),+> {
            pub fn new($($value: &'a $type,)+ cx: &'a Context) -> Self
            where
                $($type: Flow,)+
            {
                unreachable!()
            }

            pub fn pass<In, L, Out>(self, input: In, layer: &L, name: &'static str) -> Out
            where
                L: Layer<(In, $($type),+), Out = Out>,
            {
                unreachable!()
            }
        }
    };
}

reading!(Reading1: a: A);
reading!(Reading2: a: A, b: B);
reading!(Reading3: a: A, b: B, c: C);
