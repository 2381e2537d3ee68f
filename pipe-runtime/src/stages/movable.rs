//! Checks whether a layer can move to the thread of its stage.
//!
//! With a plain bound `L: Send`, rustc would report the whole stage, in terms of standard library
//! types. This reports one layer, once: rustc discards the impl that can never hold, so that a
//! layer that is `Send` has one impl left, and another layer has none.

use crate::model::Repeated;

/// A layer that can move `M`: to a worker thread, or nowhere.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot move to another thread",
    label = "a stage owns its layers and runs on a thread of its own, so they must be `Send`",
    note = "`Rc` and raw pointers are not `Send`: let the layer own its data; a type parameter needs the bound `Send`"
)]
pub trait Movable<M> {
    /// `Self`. A layer that cannot move has none, which avoids later errors about it.
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

/// Returns the layer, which moves to its stage.
#[doc(hidden)]
pub fn movable<M, L: Movable<M>>(layer: L) -> L::Layer {
    layer.same()
}

/// The same for part of a repeated layer.
#[doc(hidden)]
pub fn movable_part<M, L: Movable<M>>(part: Repeated<L>) -> Repeated<L::Layer> {
    part.map(L::same)
}
