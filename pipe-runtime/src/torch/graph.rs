use std::ptr::{self, NonNull};
use std::sync::Arc;

use tch::Tensor;
use torch_sys::C_tensor;

use super::{TorchError, ffi};

/// The autograd graph of one stage and one micro-batch, from the values that the stage sends back
/// to the values that it received.
#[derive(Debug)]
pub(crate) struct StageGraph {
    graph: NonNull<ffi::Graph>,
    received: usize,
    roots: usize,
}

// SAFETY: the graph is reached only through its owner, which is not `Sync`, and libtorch's graphs
// may move between threads.
unsafe impl Send for StageGraph {}

impl StageGraph {
    /// Starts the graph of a pass of `stage` on this thread.
    pub(crate) fn new(stage: usize) -> Result<Self, TorchError> {
        // SAFETY: a number, and a place for the result.
        let graph = ffi::owned(|graph| unsafe { ffi::pipe_graph_new(stage as i64, graph) })?;
        Ok(Self { graph, received: 0, roots: 0 })
    }

    /// Makes a tensor on `value`'s memory whose gradient ends at the boundary of this graph, in the
    /// next slot.
    pub(crate) fn receive(&mut self, value: &Tensor) -> Result<Tensor, TorchError> {
        let mut received = ptr::null_mut();
        // SAFETY: both handles are alive; the result is a new tensor.
        ffi::check(unsafe { ffi::pipe_graph_receive(self.graph.as_ptr(), value.as_ptr(), &mut received) })?;
        self.received += 1;
        Ok(ffi::take(received).expect("the shim wrote a tensor"))
    }

    /// Returns a detached handle to `value` for its receiver, and whether `value` has a gradient.
    /// If it has, it becomes the next root.
    pub(crate) fn send(&mut self, value: &Tensor) -> Result<(Tensor, bool), TorchError> {
        let (mut sent, mut is_root) = (ptr::null_mut(), 0);
        // SAFETY: as in `receive`.
        ffi::check(unsafe { ffi::pipe_graph_send(self.graph.as_ptr(), value.as_ptr(), &mut sent, &mut is_root) })?;
        self.roots += usize::from(is_root != 0);
        Ok((ffi::take(sent).expect("the shim wrote a tensor"), is_root != 0))
    }

    /// Ends the pass: later computations of this thread do not belong to it.
    pub(crate) fn end(&mut self) -> Result<(), TorchError> {
        // SAFETY: the handle is alive and borrowed exclusively.
        ffi::check(unsafe { ffi::pipe_graph_end(self.graph.as_ptr()) })
    }

    /// Whether a backward through the graph has reached a parameter.
    pub(crate) fn reaches_parameters(&self) -> bool {
        // SAFETY: the handle is alive.
        unsafe { ffi::pipe_graph_reaches_parameters(self.graph.as_ptr()) != 0 }
    }

    /// Runs the backward from the roots, with one gradient (or none) for each. Returns the
    /// gradients of the received values, and adds those of the parameters to `sums`. With `last`,
    /// nothing more will be added to the sums.
    pub(crate) fn backward(
        &mut self,
        gradients: &[Option<Tensor>],
        keep_graph: bool,
        parameters: &Parameters,
        sums: &mut Sums,
        last: bool,
    ) -> Result<Vec<Option<Tensor>>, TorchError> {
        assert_eq!(gradients.len(), self.roots, "one gradient for each root");
        let handed: Vec<_> = gradients.iter().map(|g| g.as_ref().map_or(ptr::null(), Tensor::as_ptr)).collect();
        let mut received: Vec<*mut C_tensor> = vec![ptr::null_mut(); self.received];
        // SAFETY: `handed` has an entry for each root and `received` one for each slot, and the
        // shim reads and writes exactly these.
        ffi::check(unsafe {
            ffi::pipe_graph_backward(
                self.graph.as_ptr(),
                handed.as_ptr(),
                keep_graph.into(),
                parameters.as_ptr(),
                sums.0.as_ptr(),
                last.into(),
                received.as_mut_ptr(),
            )
        })?;
        Ok(received.into_iter().map(ffi::take).collect())
    }
}

/// The backward in two halves: first for the received values, which the stage before waits for,
/// then for the parameters.
impl StageGraph {
    /// Runs the backward for the received values only. The graph then holds what the other half
    /// needs, and nothing else.
    pub(crate) fn backward_input(
        &mut self,
        gradients: &[Option<Tensor>],
        parameters: &Parameters,
        sums: &mut Sums,
    ) -> Result<Vec<Option<Tensor>>, TorchError> {
        assert_eq!(gradients.len(), self.roots, "one gradient for each root");
        let handed: Vec<_> = gradients.iter().map(|g| g.as_ref().map_or(ptr::null(), Tensor::as_ptr)).collect();
        let mut received: Vec<*mut C_tensor> = vec![ptr::null_mut(); self.received];
        // SAFETY: as in `backward`.
        ffi::check(unsafe {
            ffi::pipe_graph_backward_input(
                self.graph.as_ptr(),
                handed.as_ptr(),
                parameters.as_ptr(),
                sums.0.as_ptr(),
                received.as_mut_ptr(),
            )
        })?;
        Ok(received.into_iter().map(ffi::take).collect())
    }

    /// Adds the gradients of the parameters to `sums`, after
    /// [`backward_input`](Self::backward_input). With `last`, nothing more will be added.
    pub(crate) fn backward_weight(
        &mut self,
        parameters: &Parameters,
        sums: &mut Sums,
        last: bool,
    ) -> Result<(), TorchError> {
        // SAFETY: all three handles are alive, and the two that are written are borrowed
        // exclusively.
        ffi::check(unsafe {
            ffi::pipe_graph_backward_weight(self.graph.as_ptr(), parameters.as_ptr(), sums.0.as_ptr(), last.into())
        })
    }
}

impl Drop for StageGraph {
    fn drop(&mut self) {
        // SAFETY: made by `pipe_graph_new`, freed once.
        unsafe { ffi::pipe_graph_free(self.graph.as_ptr()) }
    }
}

/// The trainable parameters of a model, numbered, and the nodes that stand for them at the ends of
/// stages' graphs.
#[derive(Debug)]
pub(crate) struct Parameters {
    parameters: NonNull<ffi::Parameters>,
    tensors: Vec<Tensor>,
}

// SAFETY: written only while it is built (in `new`, before it is shared). Afterwards the shim only
// reads it, except for what locks guard: the message, the count and the parameters' own leaves.
unsafe impl Send for Parameters {}
// SAFETY: as above.
unsafe impl Sync for Parameters {}

impl Parameters {
    /// With `fuse`, matrix products may add to the sums of these parameters.
    pub(crate) fn new(tensors: Vec<Tensor>, fuse: bool) -> Result<Self, TorchError> {
        // SAFETY: a number, and a place for the result.
        let parameters = ffi::owned(|parameters| unsafe { ffi::pipe_parameters_new(fuse.into(), parameters) })?;
        let this = Self { parameters, tensors };
        for tensor in &this.tensors {
            // SAFETY: both handles are alive; the shim keeps its own handle on the tensor.
            ffi::check(unsafe { ffi::pipe_parameters_push(this.as_ptr(), tensor.as_ptr()) })?;
        }
        Ok(this)
    }

    fn as_ptr(&self) -> *mut ffi::Parameters {
        self.parameters.as_ptr()
    }

    /// The parameters, in order.
    pub(crate) fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// Whether these are the same parameters, with the same kinds and shapes.
    pub(crate) fn are(&self, tensors: &[Tensor]) -> bool {
        let same = |(index, tensor): (usize, &Tensor)| {
            // SAFETY: both handles are alive; the shim checks the index.
            unsafe { ffi::pipe_parameters_has(self.as_ptr(), index, tensor.as_ptr()) != 0 }
        };
        tensors.len() == self.tensors.len() && tensors.iter().enumerate().all(same)
    }

    /// Until the guard is dropped, graphs that are recorded on any thread end at these nodes
    /// instead of the parameters' own leaves. So a backward that is not the pipeline's cannot get
    /// from the inside of a stage to a parameter.
    pub(crate) fn install(self: &Arc<Self>) -> Result<InstalledParameters, TorchError> {
        // SAFETY: the handle is alive, and the guard keeps it alive; a lock guards the count.
        ffi::check(unsafe { ffi::pipe_parameters_install(self.as_ptr()) })?;
        Ok(InstalledParameters(Arc::clone(self)))
    }

    /// Fails if the graph of an earlier backward, which has been freed, ended at a trainable tensor
    /// that still exists and is not a parameter.
    pub(crate) fn none_is_forgotten(&self) -> Result<(), TorchError> {
        // SAFETY: the handle is alive; a lock guards what is read.
        ffi::check(unsafe { ffi::pipe_parameters_complain(self.as_ptr()) })
    }
}

impl Drop for Parameters {
    fn drop(&mut self) {
        // SAFETY: made by `pipe_parameters_new`, freed once.
        unsafe { ffi::pipe_parameters_free(self.as_ptr()) }
    }
}

/// Restores the parameters' own leaves when dropped.
#[derive(Debug)]
pub(crate) struct InstalledParameters(Arc<Parameters>);

impl Drop for InstalledParameters {
    fn drop(&mut self) {
        // SAFETY: `install` made the guard, and this removes it once.
        unsafe { ffi::pipe_parameters_remove(self.0.as_ptr()) }
    }
}

/// Whether this thread is inside a backward for certain gradients only, such as
/// `Tensor::run_backward`. libtorch's engine runs such a backward, on any thread.
pub(crate) fn engine_is_choosy() -> bool {
    // SAFETY: reads this thread's state.
    unsafe { ffi::pipe_engine_is_choosy() != 0 }
}

/// Sums of the parameters' gradients. They are private to one stage until they are committed.
#[derive(Debug)]
pub(crate) struct Sums(NonNull<ffi::Sums>);

// SAFETY: the sums are reached only through their owner, which is not `Sync`.
unsafe impl Send for Sums {}

impl Sums {
    pub(super) fn as_ptr(&self) -> *const ffi::Sums {
        self.0.as_ptr()
    }

    /// With `joined`, the sums are those that one backward through all micro-batches would give,
    /// rather than several backwards in sequence. For sparse gradients, the order of entries
    /// differs. With `by_engine`, libtorch's engine runs every backward that adds to them.
    pub(crate) fn new(joined: bool, by_engine: bool) -> Result<Self, TorchError> {
        // SAFETY: two flags, and a place for the result.
        ffi::owned(|sums| unsafe { ffi::pipe_sums_new(joined.into(), by_engine.into(), sums) }).map(Self)
    }

    /// Adds the sums of another stage.
    pub(crate) fn merge(&mut self, other: Self) -> Result<(), TorchError> {
        // SAFETY: two different live handles, one borrowed exclusively and one owned.
        ffi::check(unsafe { ffi::pipe_sums_merge(self.0.as_ptr(), other.0.as_ptr()) })
    }

    /// Makes this thread's current streams wait for the stages' streams, and records that they will
    /// use the sums.
    pub(crate) fn used_here(&self) -> Result<(), TorchError> {
        // SAFETY: the handle is alive; the shim only reads it and calls the allocators.
        ffi::check(unsafe { ffi::pipe_sums_used_here(self.0.as_ptr()) })
    }

    /// Adds the sums to the `.grad` of the parameters. If there is none, the sum becomes it.
    pub(crate) fn commit(self, parameters: &Parameters) -> Result<(), TorchError> {
        // SAFETY: both handles are alive; no graph that could write the same gradients runs now.
        ffi::check(unsafe { ffi::pipe_sums_commit(self.0.as_ptr(), parameters.as_ptr()) })
    }

    /// Makes `gradient` that of parameter `index`.
    pub(crate) fn put(&mut self, index: usize, gradient: &Tensor) -> Result<(), TorchError> {
        // SAFETY: both handles are alive.
        ffi::check(unsafe { ffi::pipe_sums_put(self.0.as_ptr(), index, gradient.as_ptr()) })
    }

    /// Moves the gradient of parameter `index` out; `None` if no gradient reached it.
    pub(crate) fn take(&mut self, index: usize) -> Result<Option<Tensor>, TorchError> {
        let mut gradient = ptr::null_mut();
        // SAFETY: the handle is alive; the shim checks the index.
        ffi::check(unsafe { ffi::pipe_sums_take(self.0.as_ptr(), index, &mut gradient) })?;
        Ok(ffi::take(gradient))
    }
}

impl Drop for Sums {
    fn drop(&mut self) {
        // SAFETY: made by `pipe_sums_new`, freed once.
        unsafe { ffi::pipe_sums_free(self.0.as_ptr()) }
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    type Body = fn(&Tensor, &Tensor) -> Tensor;

    const BODIES: [(&str, Body); 7] = [
        ("linear", |x, w| x.linear::<&Tensor>(w, None).relu()),
        ("matmul and sum", |x, w| (x.matmul(w) + x).tanh().mean(Kind::Float)),
        ("convolution", |x, w| x.unsqueeze(1).conv1d::<&Tensor>(&w.unsqueeze(1), None, 1, 0, 1, 1)),
        ("norm and softmax", |x, w| (x * w).layer_norm::<&Tensor>(&[3], None, None, 1e-5, false).softmax(-1, None)),
        ("attention", |x, w| {
            let x = x.matmul(w).unsqueeze(0);
            Tensor::scaled_dot_product_attention::<&Tensor>(&x, &x, &x, None, 0., false, None, false)
        }),
        ("embedding-like", |x, w| w.index_select(0, &Tensor::from_slice(&[0i64, 2, 1])) * x),
        ("joined", |x, w| Tensor::cat(&[x.matmul(w), x * 2.], 1).transpose(0, 1).contiguous()),
    ];

    /// A graph with a node that the walk does not know is left to libtorch's engine, which is
    /// correct but slow, and cannot be split. So this fails if a newer libtorch renames its nodes.
    #[test]
    fn graphs_of_ordinary_operators_are_walked_in_two_halves() {
        for (name, body) in BODIES {
            let weight = Tensor::rand([3, 3], (Kind::Float, Device::Cpu)).set_requires_grad(true);
            let parameters = Arc::new(Parameters::new(vec![weight.shallow_clone()], false).unwrap());
            let installed = parameters.install().unwrap();
            let mut graph = StageGraph::new(0).unwrap();
            let x = graph.receive(&Tensor::rand([3, 3], (Kind::Float, Device::Cpu))).unwrap();
            let y = body(&x, &weight);
            assert!(graph.send(&y).unwrap().1, "{name}");
            graph.end().unwrap();
            drop(installed);

            let mut sums = Sums::new(false, false).unwrap();
            let received = graph.backward_input(&[Some(y.ones_like())], &parameters, &mut sums).unwrap();
            assert!(received[0].is_some(), "{name}");
            assert!(sums.take(0).unwrap().is_none(), "{name} was left to libtorch's engine");
            graph.backward_weight(&parameters, &mut sums, true).unwrap();
            assert!(sums.take(0).unwrap().is_some(), "{name}");
        }
    }
}
