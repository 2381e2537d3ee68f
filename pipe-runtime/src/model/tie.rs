use tch::Tensor;
use tch::nn::{Embedding, Linear};

use crate::flow::Flow;

/// A layer that lends a value, usually a weight, to another layer: `#[stash(words = tied)] embed:
/// Embedding` stashes the value that `embed` lends, and `#[pop(words)] head: Head` makes `head`
/// take `(input, words)`.
///
/// The owner keeps the parameter on its device. With each micro-batch, the value is sent to the
/// other layer's stage, which sends its gradient back, directly from stage to stage like a skip. So
/// a tied weight has one variable, one gradient and one entry in a saved file.
///
/// ```
/// use pipe_runtime::{Context, Layer};
/// use tch::Tensor;
///
/// /// Logits over the words of a tied embedding.
/// struct Head;
///
/// impl Layer<(Tensor, Tensor)> for Head {
///     type Out = Tensor;
///
///     fn run(&self, (x, words): (Tensor, Tensor), _cx: &Context) -> Tensor {
///         x.matmul(&words.tr())
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no value that another layer could be tied to",
    label = "a `#[stash(.. = tied)]` stands on this layer, so it would have to implement `Tied`",
    note = "`tch::nn::Embedding` and `Linear` lend their weights; implement `pipe_runtime::Tied` for other layers"
)]
pub trait Tied {
    /// The type of the lent value.
    type Value: Flow;

    /// Returns a handle on the lent value. Its tensors share memory and gradients with the layer's.
    fn tied(&self) -> Self::Value;
}

/// Lends the words' vectors, of shape `[words, width]`.
impl Tied for Embedding {
    type Value = Tensor;

    fn tied(&self) -> Tensor {
        self.ws.shallow_clone()
    }
}

/// Lends the weight, of shape `[outputs, inputs]`.
impl Tied for Linear {
    type Value = Tensor;

    fn tied(&self) -> Tensor {
        self.ws.shallow_clone()
    }
}

/// Returns the value that `layer` lends. Generated code calls it.
#[doc(hidden)]
pub fn lend<L: Tied<Value = V>, V>(layer: &L) -> V {
    layer.tied()
}
