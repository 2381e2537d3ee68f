//! Whether a layer can move to the thread of its stage.
//!
//! A plain `L: Send` would be said of the whole stage, in words about the standard library's types.
//! This says it of one layer, once: rustc drops the impl that can never hold, so a layer that is
//! `Send` has one way left and any other has none.

use crate::model::Repeated;

/// A layer that can move `M`: to a worker, or nowhere.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot move to another thread",
    label = "a stage owns its layers and runs on a thread of its own, so they must be `Send`",
    note = "`Rc` and raw pointers are not `Send`: let the layer own its data; a type parameter needs the bound `Send`"
)]
pub trait Movable<M> {
    /// `Self`. What cannot move has none, which keeps later errors about it away.
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

/// The layer, on its way to its stage.
#[doc(hidden)]
pub fn movable<M, L: Movable<M>>(layer: L) -> L::Layer {
    layer.same()
}

/// The same for part of a repeated layer.
#[doc(hidden)]
pub fn movable_part<M, L: Movable<M>>(part: Repeated<L>) -> Repeated<L::Layer> {
    part.map(L::same)
}
