use tch::{Tensor, nn::ModuleT};

use super::context::Context;

/// A layer of a pipeline: takes what reaches it, gives what the next layer takes.
///
/// Every [`tch::nn::Module`] and [`ModuleT`] is a `Layer<Tensor>`. Layers that take a popped skip,
/// return a stashed one, or work on other values than one tensor implement this trait:
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
/// A layer panics where it cannot go on, as tch's own functions do; the pipeline turns that into an
/// error that names stage, layer and micro-batch.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a layer that takes `{In}`",
    label = "this layer would have to take `{In}`",
    note = "a layer is a `tch::nn::Module` or `ModuleT` (takes and gives a `Tensor`), or implements `pipe_runtime::Layer<Input>`"
)]
pub trait Layer<In> {
    /// What the layer gives.
    type Out;

    /// Runs the layer on one micro-batch.
    fn run(&self, input: In, cx: &Context) -> Self::Out;
}

#[diagnostic::do_not_recommend]
impl<M: ModuleT> Layer<Tensor> for M {
    type Out = Tensor;

    fn run(&self, input: Tensor, cx: &Context) -> Tensor {
        self.forward_t(&input, cx.is_training())
    }
}

/// Passes `input` through the child layer `name` if it is there. An absent one is the identity, at
/// its place in the model all the same.
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
#[doc(hidden)]
pub fn pass<L, In, Out>(input: In, layer: &L, cx: &Context, name: &'static str) -> Out
where
    L: Layer<In, Out = Out>,
{
    // Not by `enter`: this is compiled for each layer type of a user's.
    let at = cx.layer(name);
    let outer = at.start();
    let output = layer.run(input, cx);
    at.end(outer);
    output
}
