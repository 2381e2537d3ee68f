//! A copy of the runtime's `WithSkips`.

#[diagnostic::on_unimplemented(
    message = "this layer gives {SKIPS} more than its output and returns `{Self}`",
    label = "a layer that stashes or adds returns a tuple: its output, then each value in the order of `#[stash(..)]` and `#[sum(..)]`",
    note = "`#[stash(a = input)]` and `#[stash(a = output)]` keep a value without a layer that returns it"
)]
pub trait WithSkips<const SKIPS: usize> {
    /// `Self`. A value that is not such a tuple has none, which avoids later errors about it.
    type Tuple;

    fn same(self) -> Self::Tuple;
}

macro_rules! with_skips {
    ($count:literal: $($skip:ident)+) => {
        #[diagnostic::do_not_recommend]
        impl<Output, $($skip),+> WithSkips<$count> for (Output, $($skip),+) {
            type Tuple = Self;

            fn same(self) -> Self {
                self
            }
        }
    };
}

with_skips!(1: A);
with_skips!(2: A B);
with_skips!(3: A B C);
with_skips!(4: A B C D);
with_skips!(5: A B C D E);
with_skips!(6: A B C D E F);
with_skips!(7: A B C D E F G);
with_skips!(8: A B C D E F G H);
with_skips!(9: A B C D E F G H I);
with_skips!(10: A B C D E F G H I J);
with_skips!(11: A B C D E F G H I J K);

/// Returns a layer's output and skips as the tuple that its skips are taken from.
pub fn with_skips<const SKIPS: usize, T: WithSkips<SKIPS>>(returned: T) -> T::Tuple {
    returned.same()
}
