//! Checks that a layer can move to the thread of its stage.
//!
//! The error about a plain `L: Send` would name the whole stage, and types of the standard library.
//! The error about this trait names one layer, once: rustc drops the impl that can never hold, so
//! one impl is left for a layer that is `Send`, and none for any other layer.

use crate::model::Repeated;

/// A layer that can move to `M`, which is a worker or nowhere.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot move to another thread",
    label = "a stage owns its layers and runs on a thread of its own, so they must be `Send`",
    note = "`Rc` and raw pointers are not `Send`: let the layer own its data; a type parameter needs the bound `Send`"
)]
pub trait Movable<M> {
    /// `Self`. A layer that cannot move has no such type, which suppresses further errors about it.
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

/// Returns the layer, on its way to its stage.
#[doc(hidden)]
pub fn movable<M, L: Movable<M>>(layer: L) -> L::Layer {
    layer.same()
}

/// Returns part of a repeated layer, on its way to its stage.
#[doc(hidden)]
pub fn movable_part<M, L: Movable<M>>(part: Repeated<L>) -> Repeated<L::Layer> {
    part.map(L::same)
}
