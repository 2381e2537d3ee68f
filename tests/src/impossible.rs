//! Mistakes that other libraries find at run time, and that do not compile here.

/// A pipeline places its parameters itself, so they cannot be moved through the pipeline.
///
/// ```compile_fail,E0599
/// fn moved<M: pipe_runtime::Pipeline>(pipe: pipe_runtime::Pipe<M>) {
///     pipe.to_device(tch::Device::Cuda(0));
/// }
/// ```
///
/// They cannot be moved through its variables either, which are borrowed.
///
/// ```compile_fail,E0596
/// fn moved(vars: &pipe_runtime::Vars) {
///     vars.var_store().set_device(tch::Device::Cuda(0));
/// }
/// ```
///
/// Casts are not moves.
///
/// ```
/// fn cast(vars: &pipe_runtime::Vars) {
///     vars.var_store().root().double();
/// }
/// ```
pub struct Moving;

/// A pipeline runs one call at a time, so two threads cannot call it at once.
///
/// ```compile_fail,E0499
/// use pipe_runtime::{Pipe, Pipeline};
/// use tch::Tensor;
///
/// fn at_once<M: Pipeline<Input = Tensor>>(pipe: &mut Pipe<M>, a: Tensor, b: Tensor)
/// where
///     Pipe<M>: Send,
/// {
///     std::thread::scope(|scope| {
///         scope.spawn(|| pipe.forward(a).is_ok());
///         scope.spawn(|| pipe.forward(b).is_ok());
///     });
/// }
/// ```
pub struct ConcurrentCalls;

/// A checkpoint mode is one of three values, not a string.
///
/// ```compile_fail,E0277
/// fn mode<M: pipe_runtime::Pipeline>(builder: pipe_runtime::PipeBuilder<'_, M>) {
///     builder.checkpoint("exceptlast");
/// }
/// ```
pub struct UnknownModes;

/// The number of chunks is a number, not a string.
///
/// ```compile_fail,E0277
/// fn chunks<M: pipe_runtime::Pipeline>(builder: pipe_runtime::PipeBuilder<'_, M>) {
///     builder.chunks("4");
/// }
/// ```
pub struct ChunksAsText;

/// The input has the model's input type, so it cannot be another number of tensors.
///
/// ```compile_fail,E0277
/// use pipe_runtime::{Pipe, Pipeline};
/// use tch::Tensor;
///
/// fn two_for_one<M: Pipeline<Input = Tensor>>(pipe: &mut Pipe<M>, x: &Tensor) {
///     let _ = pipe.forward((x, x));
/// }
/// ```
pub struct OtherInputs;
