use std::marker::PhantomData;
use std::ptr::{self, NonNull};

use super::{TorchError, ffi};

/// What a stage does with the outputs of operators that take little time, where the backward needs
/// them. Such an output can be recomputed if it can be made from tensors that the graph keeps
/// anyway: the output of a `gelu` from its input, that of a `relu` after a batch norm from the
/// input of the norm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CheapOutputs {
    /// Keeps them, as autograd does.
    #[default]
    Keep,
    /// Recomputes those of pointwise operators: activations, sums, products, casts, copies. A
    /// transformer keeps about three quarters of its memory, a convolution with norm and activation
    /// two thirds.
    RecomputePointwise,
    /// Recomputes those of norms, concatenations, poolings and upsamplings too. A transformer keeps
    /// less than two thirds of its memory, a convolution with norm and activation a third. On a
    /// CPU, a batch norm takes about as long as a small convolution.
    RecomputeAll,
}

/// A guard: while it exists, graphs that this thread records do not keep cheap outputs. Not `Send`,
/// because it sets the thread's own state.
#[derive(Debug)]
pub(crate) struct CheapPass {
    pass: NonNull<ffi::CheapPass>,
    _this_thread: PhantomData<*const ()>,
}

impl CheapPass {
    /// Starts a pass of a stage; `None` if it keeps cheap outputs.
    pub(crate) fn start(outputs: CheapOutputs) -> Result<Option<Self>, TorchError> {
        if outputs == CheapOutputs::Keep {
            return Ok(None);
        }
        let mut pass = ptr::null_mut();
        let all = outputs == CheapOutputs::RecomputeAll;
        // SAFETY: writes a new pass; it sets this thread's state, and installs kernels once.
        ffi::check(unsafe { ffi::pipe_cheap_enter(all.into(), &mut pass) })?;
        let pass = NonNull::new(pass).expect("the shim wrote the pass");
        Ok(Some(Self { pass, _this_thread: PhantomData }))
    }
}

impl Drop for CheapPass {
    fn drop(&mut self) {
        // SAFETY: made by `pipe_cheap_enter` on this thread, freed once.
        unsafe { ffi::pipe_cheap_leave(self.pass.as_ptr()) }
    }
}
