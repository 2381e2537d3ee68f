//! A copy of the runtime's `Movable`.

use std::marker::PhantomData;

use crate::__rt::Repeated;

/// A layer that can move `M`: to a worker thread, or nowhere.
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

pub struct ToWorker;

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
pub fn movable<M, L: Movable<M>>(layer: L) -> L::Layer {
    layer.same()
}

/// Returns part of a repeated layer, which moves to its stage.
pub fn movable_part<M, L: Movable<M>>(part: Repeated<L>) -> Repeated<L::Layer> {
    Repeated(PhantomData)
}
