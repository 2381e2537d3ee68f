use tch::Tensor;
use tch::nn::{Embedding, Linear};

use crate::flow::Flow;

/// A layer whose weight others use: `#[lend(words = tied)] embed: Embedding` lends it, and
/// `#[read(words)] head: Head` makes `head` take `(input, words)`. Any number of later layers may
/// read it.
///
/// The owner keeps the parameter on its device. Each stage that reads it receives it directly, on
/// another device or in another process once per call, and sends back the gradient of each
/// micro-batch. So a tied weight has one variable, one gradient and one place in a saved file.
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
    label = "a `#[lend(.. = tied)]` stands on this layer, so it would have to implement `Tied`",
    note = "`tch::nn::Embedding` and `Linear` lend their weights; implement `pipe_runtime::Tied` for other layers"
)]
pub trait Tied {
    /// The type of the value.
    type Value: Flow;

    /// Returns a handle to the value. Tensors share their memory and their gradients.
    fn tied(&self) -> Self::Value;
}

/// The vectors of the words, `[words, width]`.
impl Tied for Embedding {
    type Value = Tensor;

    fn tied(&self) -> Tensor {
        self.ws.shallow_clone()
    }
}

/// Lends the weight, `[outputs, inputs]`.
impl Tied for Linear {
    type Value = Tensor;

    fn tied(&self) -> Tensor {
        self.ws.shallow_clone()
    }
}

/// Returns what `layer` lends, for generated code.
#[doc(hidden)]
pub fn lend<L: Tied<Value = V>, V>(layer: &L) -> V {
    layer.tied()
}
