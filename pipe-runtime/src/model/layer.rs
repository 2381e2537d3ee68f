use tch::{Tensor, nn::ModuleT};

use super::context::Context;

/// A layer of a pipeline. It takes the value that the layer before it returns, and returns the
/// value that the next layer takes.
///
/// Every [`tch::nn::Module`] and [`ModuleT`] is a `Layer<Tensor>`. Layers that take a popped skip,
/// return a stashed one, or take or return anything but one tensor implement this trait:
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
/// A layer panics if it cannot continue, as tch's functions do. The pipeline turns the panic into
/// an error that names stage, layer and micro-batch.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a layer that takes `{In}`",
    label = "this layer would have to take `{In}`",
    note = "a layer is a `tch::nn::Module` or `ModuleT` (takes and gives a `Tensor`), or implements `pipe_runtime::Layer<Input>`"
)]
pub trait Layer<In> {
    /// The type of the layer's output.
    type Out;

    /// Runs the layer on one micro-batch.
    ///
    /// # Panics
    ///
    /// A layer may panic to report an error; see [`Layer`].
    fn run(&self, input: In, cx: &Context) -> Self::Out;
}

#[diagnostic::do_not_recommend]
impl<M: ModuleT> Layer<Tensor> for M {
    type Out = Tensor;

    fn run(&self, input: Tensor, cx: &Context) -> Tensor {
        self.forward_t(&input, cx.is_training())
    }
}

/// Passes `input` through the child layer `name` if it is present. An absent layer is the identity,
/// but still has its place in the model.
///
/// # Panics
///
/// If the layer panics.
#[doc(hidden)]
pub fn pass_if_some<L, T>(input: T, layer: &Option<L>, cx: &Context, name: &'static str) -> T
where
    L: Layer<T, Out = T>,
{
    match layer {
        Some(layer) => pass(input, layer, cx, name),
        None => cx.layer(name).enter(|_| input),
    }
}

/// Passes `input` through the child layer `name`, at its place in the model.
///
/// # Panics
///
/// If the layer panics.
#[doc(hidden)]
pub fn pass<L, In, Out>(input: In, layer: &L, cx: &Context, name: &'static str) -> Out
where
    L: Layer<In, Out = Out>,
{
    // Not through `enter`, whose closure would be compiled again for each of the user's layer
    // types.
    let at = cx.layer(name);
    let outer = at.start();
    let output = layer.run(input, cx);
    at.end(outer);
    output
}
