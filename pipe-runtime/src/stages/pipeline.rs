use super::graph::{Graph, Layers};
use crate::error::Result;
use crate::model::Model;

/// A [`Model`] with devices, which can be split into stages.
pub trait Pipeline: Model + Sized + 'static {
    /// The fields that are not layers.
    type Plain;

    /// Moves the layers into their stages.
    #[doc(hidden)]
    fn disassemble(self, graph: &mut Graph) -> Result<Self::Plain>;

    /// Takes the layers back.
    #[doc(hidden)]
    fn assemble(layers: &mut Layers, plain: Self::Plain) -> Self;
}
