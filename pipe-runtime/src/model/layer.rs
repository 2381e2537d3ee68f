use tch::{Tensor, nn::ModuleT};

use super::context::Context;

/// A layer of a pipeline: a function from its input to the input of the next layer.
///
/// Every [`tch::nn::Module`] and [`ModuleT`] is a `Layer<Tensor>`. A layer implements this trait if
/// it takes a popped skip, returns a stashed one, or works on values other than a single tensor:
///
/// ```
/// use pipe_runtime::{Context, Layer};
/// use tch::Tensor;
///
/// struct Gate;
///
/// // `#[pop(signal)] gate: Gate` takes `(input, signal)`.
/// impl Layer<(Tensor, Tensor)> for Gate {
///     type Out = Tensor;
///
///     fn run(&self, (x, signal): (Tensor, Tensor), _cx: &Context) -> Tensor {
///         x * signal.sigmoid()
///     }
/// }
/// ```
///
/// A layer that cannot continue panics, as tch's own functions do. The pipeline turns the panic
/// into an error that names the stage, layer and micro-batch.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a layer that takes `{In}`",
    label = "this layer would have to take `{In}`",
    note = "a layer is a `tch::nn::Module` or `ModuleT` (takes and gives a `Tensor`), or implements `pipe_runtime::Layer<Input>`"
)]
pub trait Layer<In> {
    /// The layer's output.
    type Out;

    /// Runs the layer on one micro-batch. `cx` describes the run.
    ///
    /// # Panics
    ///
    /// An implementation may panic. The pipeline returns the panic as an
    /// [`Error::Failed`](crate::Error::Failed).
    fn run(&self, input: In, cx: &Context) -> Self::Out;
}

#[diagnostic::do_not_recommend]
impl<M: ModuleT> Layer<Tensor> for M {
    type Out = Tensor;

    fn run(&self, input: Tensor, cx: &Context) -> Tensor {
        self.forward_t(&input, cx.is_training())
    }
}

/// Passes `input` through the child layer `name`, at its place in the model.
#[doc(hidden)]
pub fn pass<L, In, Out>(input: In, layer: &L, cx: &Context, name: &'static str) -> Out
where
    L: Layer<In, Out = Out>,
{
    // Not with `enter`, whose closure would be compiled again for each of the user's layer types.
    let at = cx.layer(name);
    let outer = at.start();
    let output = layer.run(input, cx);
    at.end(outer);
    output
}
