use std::ffi::{CString, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use tch::Tensor;
use torch_sys::C_tensor;

use super::{TorchError, ffi, panic_message};

/// The backward of one call's autograd node, run when the caller's backward pass reaches it.
///
/// Several threads may traverse one graph at once, so implementations must be `Sync`.
pub(crate) trait Backward: Send + Sync {
    /// Returns the gradients of the node's inputs, in order, given those of its outputs (`None`: no
    /// gradient).
    fn backward(&self, gradients: Vec<Option<Tensor>>, keep_graph: bool) -> Result<Vec<Option<Tensor>>, String>;

    /// The number of outputs and the number of inputs of the node.
    fn arity(&self) -> (usize, usize);
}

type State = Box<dyn Backward>;

/// Turns `outputs` into the results of one new autograd node that has the inputs `inputs` and runs
/// `backward` as its backward. Outputs that are not `differentiable` stay constants. The caller's
/// graph owns `backward` from now on and frees it with the graph.
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
    // SAFETY: the arrays have the lengths that are passed; the shim owns `state` from here on and
    // passes it to `drop_state` exactly once.
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
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: made in `attach`; the node keeps it alive while this runs, and all references to
        // it are shared.
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
    }));
    let text = match outcome {
        Ok(Ok(())) => return 0,
        Ok(Err(text)) => text,
        Err(panic) => panic_message(panic.as_ref()),
    };
    let text = CString::new(text.replace('\0', "")).expect("no NUL is left");
    // SAFETY: `message` points to a pointer on the shim's stack.
    unsafe { *message = text.into_raw() };
    1
}

/// Releases the C++ handle of a tensor to the caller, which must free it.
fn into_raw(tensor: Tensor) -> *mut C_tensor {
    let mut tensor = std::mem::ManuallyDrop::new(tensor);
    tensor.as_mut_ptr()
}

extern "C" fn drop_state(state: *mut c_void) {
    // SAFETY: made by `Box::into_raw` in `attach`; the shim calls this once.
    let state = unsafe { Box::from_raw(state.cast::<State>()) };
    // A panic while freeing must not cross into C++, and there is no caller left to report it to.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(state)));
}

extern "C" fn drop_message(message: *mut c_char) {
    // SAFETY: made by `CString::into_raw` in `run`; the shim calls this once.
    drop(unsafe { CString::from_raw(message) });
}
