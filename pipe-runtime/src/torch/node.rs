use std::ffi::{CString, c_char, c_int, c_void};
use std::ptr;

use tch::Tensor;
use torch_sys::C_tensor;

use super::{TorchError, caught, ffi};

/// The backward of one autograd node, which runs when the caller's backward reaches it.
///
/// Several threads may traverse one graph at once, so implementations are `Sync`.
pub(crate) trait Backward: Send + Sync {
    /// Computes the gradients of the node's inputs, in order, from the gradients of its outputs.
    /// `None` is no gradient. With `keep_graph`, another backward may follow.
    fn backward(&self, gradients: Vec<Option<Tensor>>, keep_graph: bool) -> Result<Vec<Option<Tensor>>, String>;

    /// The number of outputs and the number of inputs of the node.
    fn arity(&self) -> (usize, usize);
}

type State = Box<dyn Backward>;

/// Turns `outputs` into the results of one new autograd node that has the inputs `inputs` and runs
/// `backward`. Outputs that are not marked as differentiable stay constants. The graph takes
/// ownership of `backward`, and frees it when the graph is freed.
pub(crate) fn attach(
    outputs: &[&Tensor],
    differentiable: &[bool],
    inputs: &[&Tensor],
    backward: Box<dyn Backward>,
) -> Result<(), TorchError> {
    assert_eq!(backward.arity(), (outputs.len(), inputs.len()), "the node's arity");
    let outputs: Vec<_> = outputs.iter().map(|t| t.as_ptr()).collect();
    let inputs: Vec<_> = inputs.iter().map(|t| t.as_ptr()).collect();
    let differentiable: Vec<u8> = differentiable.iter().map(|&d| d.into()).collect();
    let state: *mut State = Box::into_raw(Box::new(backward));
    // SAFETY: each array has the length that is passed with it. The shim takes ownership of
    // `state`, and calls `drop_state` on it exactly once.
    ffi::check(unsafe {
        ffi::pipe_node_attach(
            outputs.as_ptr(),
            differentiable.as_ptr(),
            outputs.len(),
            inputs.as_ptr(),
            inputs.len(),
            state.cast(),
            run,
            drop_state,
            drop_message,
        )
    })
}

extern "C" fn run(
    state: *mut c_void,
    gradients: *const *mut C_tensor,
    keep_graph: c_int,
    results: *mut *mut C_tensor,
    message: *mut *mut c_char,
) -> c_int {
    let outcome = caught(|| {
        // SAFETY: `attach` made this pointer, and the node keeps it alive while this runs. Only
        // shared references to it are made.
        let state = unsafe { &*state.cast::<State>() };
        let (outputs, inputs) = state.arity();
        let gradients = (0..outputs).map(|i| {
            // SAFETY: the shim passes one pointer per output; a shallow clone keeps the tensor
            // alive beyond the call.
            unsafe { (*gradients.add(i)).as_mut().map(|g| Tensor::clone_from_ptr(g)) }
        });
        let found = state.backward(gradients.collect(), keep_graph != 0)?;
        if found.len() != inputs {
            return Err(format!("the node has {inputs} inputs, its backward gave {} gradients", found.len()));
        }
        for (i, gradient) in found.into_iter().enumerate() {
            // SAFETY: `results` has one entry per input.
            unsafe { *results.add(i) = gradient.map_or(ptr::null_mut(), into_raw) };
        }
        Ok(())
    });
    let text = match outcome.flatten() {
        Ok(()) => return 0,
        Err(text) => text,
    };
    let text = CString::new(text.replace('\0', "")).expect("no NUL is left");
    // SAFETY: `message` points to a pointer on the shim's stack.
    unsafe { *message = text.into_raw() };
    1
}

/// Gives up ownership of a tensor's C++ handle, and returns it.
fn into_raw(tensor: Tensor) -> *mut C_tensor {
    let mut tensor = std::mem::ManuallyDrop::new(tensor);
    tensor.as_mut_ptr()
}

extern "C" fn drop_state(state: *mut c_void) {
    // SAFETY: made by `Box::into_raw` in `attach`; the shim calls this once.
    let state = unsafe { Box::from_raw(state.cast::<State>()) };
    // A panic while freeing must not cross into C++, and there is no caller left to report it to.
    let _ = caught(|| drop(state));
}

extern "C" fn drop_message(message: *mut c_char) {
    // SAFETY: made by `CString::into_raw` in `run`; the shim calls this once.
    drop(unsafe { CString::from_raw(message) });
}
