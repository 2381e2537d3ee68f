//! A copy of the runtime's `Whole`.

use std::ops::Deref;

use crate::Tensor;

/// A value of which a part is kept.
pub struct Whole<'a, T>(Fields<'a, T>);

/// A value of any type, for its fields.
pub struct Fields<'a, T>(&'a T);

/// Takes the value, of which generated code keeps a part.
pub fn whole<T>(value: &T) -> Whole<'_, T> {
    Whole(Fields(value))
}

impl<'a, T> Fields<'a, T> {
    /// The value as it is.
    pub fn parts(&self) -> &'a T {
        self.0
    }
}

impl<'a, T> Deref for Whole<'a, T> {
    type Target = Fields<'a, T>;

    fn deref(&self) -> &Fields<'a, T> {
        &self.0
    }
}

/// A value with parts, which is of the type `V`. No type implements this.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no parts, so none of them can be stashed or lent",
    label = "`.1` is a part of a tuple, and `.mask` of a struct",
    note = "the whole value is `input` or `output` alone: `#[stash(a = output)]`, `#[lend(a = output)]`"
)]
pub trait HasParts<V> {
    fn value(&self) -> &V;
}

mod sealed {
    pub trait Impossible {}
}

// Without any implementation, rustc would propose to write one.
#[diagnostic::do_not_recommend]
impl<V, T: sealed::Impossible> HasParts<V> for T {
    fn value(&self) -> &V {
        unreachable!("there is no such type")
    }
}

// These are written out, because users see them in the messages of rustc.

impl<'a> Whole<'a, Tensor> {
    pub fn parts<V>(self) -> &'a V
    where
        Tensor: HasParts<V>,
    {
        self.0.0.value()
    }
}

impl<'a, T> Whole<'a, Vec<T>> {
    pub fn parts<V>(self) -> &'a V
    where
        Vec<T>: HasParts<V>,
    {
        self.0.0.value()
    }
}

impl<'a, T> Whole<'a, Option<T>> {
    pub fn parts<V>(self) -> &'a V
    where
        Option<T>: HasParts<V>,
    {
        self.0.0.value()
    }
}
