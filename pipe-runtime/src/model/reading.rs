//! What layers read of lent values. There is a type for each number of values, so that rustc finds
//! `pass` at once.

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

/// Declares the type for some values. It is copied into each call: rustc would take longer for a
/// reference.
macro_rules! reading {
    ($name:ident: $($value:ident: $type:ident),+) => {
        /// The run, and what layers read in it.
        #[doc(hidden)]
        #[derive(Debug)]
        pub struct $name<'a, $($type),+> {
            $($value: Lent<'a, $type>,)+
            cx: &'a Context,
        }

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
                Self { $($value: Lent::new($value),)+ cx }
            }

            /// Passes `input` through the layer `name`, with handles to what it reads.
            pub fn pass<In, L, Out>(self, input: In, layer: &L, name: &'static str) -> Out
            where
                L: Layer<(In, $($type),+), Out = Out>,
            {
                pass((input, $(self.$value.share()),+), layer, self.cx, name)
            }
        }
    };
}

reading!(Reading1: a: A);
reading!(Reading2: a: A, b: B);
reading!(Reading3: a: A, b: B, c: C);
