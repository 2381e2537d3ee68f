use super::graph::{Graph, Layers};
use crate::error::Result;
use crate::model::Model;

/// A [`Model`] with devices, which can be taken apart into stages.
pub trait Pipeline: Model + Sized + 'static {
    /// The fields that are not layers.
    type Plain;

    /// Hands the layers to their stages.
    #[doc(hidden)]
    fn disassemble(self, graph: &mut Graph) -> Result<Self::Plain>;

    /// Takes them back.
    #[doc(hidden)]
    fn assemble(layers: &mut Layers, plain: Self::Plain) -> Self;
}
