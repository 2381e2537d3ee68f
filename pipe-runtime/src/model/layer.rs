use tch::{Tensor, nn::ModuleT};

use super::context::Context;

/// A layer of a pipeline: a function from its input to its output, with parameters.
///
/// Every [`tch::nn::Module`] and [`ModuleT`] is a `Layer<Tensor>`. Implement this trait for layers
/// that take a popped skip, return a stashed one, or work on other values than one tensor:
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
/// A layer that cannot continue panics, as tch's functions do. The pipeline turns the panic into an
/// error that names the stage, the layer and the micro-batch.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a layer that takes `{In}`",
    label = "this layer would have to take `{In}`",
    note = "a layer is a `tch::nn::Module` or `ModuleT` (takes and gives a `Tensor`), or implements `pipe_runtime::Layer<Input>`",
    note = "a layer with `#[pop(a)]` or `#[read(a)]` takes a tuple of its input and what it pops and reads, in the written order: it implements `Layer<(Input, A)>`; a block that declares `read(a: A)` needs `#[read(a)]`",
    note = "a layer above that returns `(output, a)` needs `#[stash(a)]` or `#[sum(a)]`, or all of it flows on; a block that declares `sum(a: A)` needs `#[sum(a)]`",
    note = "a function is a layer of the type `tch::nn::Func<'static>`, made by `tch::nn::func(..)`; a setting, such as a number, is marked with `#[not_a_layer]`"
)]
pub trait Layer<In> {
    /// The type of the output.
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

/// Passes `input` through the child layer `name` if it is present. An absent layer is the identity.
/// Both count as a layer of the model.
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

/// Passes `input` through the child layer `name`, and enters its place in the model.
#[doc(hidden)]
pub fn pass<L, In, Out>(input: In, layer: &L, cx: &Context, name: &'static str) -> Out
where
    L: Layer<In, Out = Out>,
{
    // This does not use `enter`, which would be compiled again for each layer type of the user.
    let at = cx.layer(name);
    let outer = at.start();
    let output = layer.run(input, cx);
    at.end(outer);
    output
}
