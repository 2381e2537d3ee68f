use super::graph::{Graph, Layers};
use crate::error::Result;
use crate::model::Model;

/// A [`Model`] with devices, which can be split into stages.
pub trait Pipeline: Model + Sized + 'static {
    /// The fields that are not layers.
    type Plain;

    /// Hands the layers to their stages, and returns the other fields.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Setting`](crate::Error::Setting) if the number of repeated layers does not
    /// fit their annotated division into stages.
    #[doc(hidden)]
    fn disassemble(self, graph: &mut Graph) -> Result<Self::Plain>;

    /// Puts the model together again, from its layers and the other fields.
    #[doc(hidden)]
    fn assemble(layers: &mut Layers, plain: Self::Plain) -> Self;
}
