use super::graph::{Graph, Layers};
use crate::error::Result;
use crate::model::Model;

/// A [`Model`] with devices, which can be divided into stages. `#[pipeline]` implements it.
pub trait Pipeline: Model + Sized + 'static {
    /// The fields that are not layers.
    type Plain;

    /// Moves the layers to their stages.
    ///
    /// # Errors
    ///
    /// If a repeated layer cannot be divided among its stages.
    #[doc(hidden)]
    fn disassemble(self, graph: &mut Graph) -> Result<Self::Plain>;

    /// Moves the layers back into the model.
    #[doc(hidden)]
    fn assemble(layers: &mut Layers, plain: Self::Plain) -> Self;
}
