//! Checks that a layer can move to the thread of its stage.
//!
//! With a plain bound `L: Send`, rustc would report the whole stage, in terms of the standard
//! library's types. This trait makes it report the layer, once. The impl for `Nowhere` can never
//! apply, so rustc infers `M = ToWorker` for a layer that is `Send` and finds no impl for any
//! other.

use crate::model::Repeated;

/// Implemented by layers that can move to another thread. `M` is inferred and only selects the
/// impl.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot move to another thread",
    label = "a stage owns its layers and runs on a thread of its own, so they must be `Send`",
    note = "`Rc` and raw pointers are not `Send`: let the layer own its data; a type parameter needs the bound `Send`"
)]
pub trait Movable<M> {
    /// `Self`. A layer that cannot move has no such type, which suppresses follow-up errors about
    /// it.
    type Layer;

    fn same(self) -> Self::Layer;
}

#[doc(hidden)]
pub struct ToWorker;

#[doc(hidden)]
pub struct Nowhere;

mod sealed {
    pub trait Impossible {}
}

#[diagnostic::do_not_recommend]
impl<L: Send + 'static> Movable<ToWorker> for L {
    type Layer = L;

    fn same(self) -> L {
        self
    }
}

#[diagnostic::do_not_recommend]
impl<L: sealed::Impossible> Movable<Nowhere> for L {
    type Layer = L;

    fn same(self) -> L {
        self
    }
}

/// Returns the layer, checked to be movable to its stage's thread.
#[doc(hidden)]
pub fn movable<M, L: Movable<M>>(layer: L) -> L::Layer {
    layer.same()
}

/// Does the same as [`movable`] for part of a repeated layer.
#[doc(hidden)]
pub fn movable_part<M, L: Movable<M>>(part: Repeated<L>) -> Repeated<L::Layer> {
    part.map(L::same)
}
