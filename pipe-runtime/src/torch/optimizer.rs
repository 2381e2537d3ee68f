use std::ptr;

use tch::Tensor;

use super::{TorchError, ffi};

/// A parameter, and the tensors that an update of it reads and writes.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) parameter: Tensor,
    /// Adam: both averages and, with `amsgrad`, the maximum of the second one. SGD with momentum:
    /// its buffer.
    pub(crate) state: Vec<Tensor>,
    /// The moving average of the parameter.
    pub(crate) average: Option<Tensor>,
}

/// The parameters that an optimizer updates.
#[derive(Debug)]
pub(crate) struct Slots(Vec<Slot>);

// SAFETY: the handles are only read. What the shim writes through them is the tensors' memory:
// concurrent calls get different elements.
unsafe impl Sync for Slots {}

/// Some elements of a slot's tensors, in the order of their memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slice {
    pub(crate) slot: usize,
    pub(crate) start: usize,
    pub(crate) length: usize,
}

/// The rule of an update, as the shim reads it. Numbers that an algorithm does not have are 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct FusedRule {
    pub(crate) kind: FusedKind,
    pub(crate) amsgrad: i32,
    pub(crate) nesterov: i32,
    pub(crate) maximize: i32,
    pub(crate) lr: f64,
    pub(crate) beta1: f64,
    pub(crate) beta2: f64,
    pub(crate) eps: f64,
    pub(crate) weight_decay: f64,
    pub(crate) momentum: f64,
    pub(crate) dampening: f64,
    /// The number of this update of the parameter, from 1.
    pub(crate) step: i64,
    /// Each gradient is divided by this number first.
    pub(crate) divisor: f64,
    /// Then each gradient is clamped to this absolute value; infinity for none.
    pub(crate) clamp: f64,
    /// The weight of the new parameter in its moving average.
    pub(crate) average_weight: f64,
}

/// libtorch's fused kernels.
#[repr(i32)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum FusedKind {
    #[default]
    Adam = 0,
    AdamW = 1,
    Sgd = 2,
}

/// What is known about a parameter before an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GradientState {
    /// It has no gradient.
    None,
    /// It has a gradient that a fused kernel can use.
    Ready,
    /// Its gradient is sparse.
    Sparse,
    /// Its gradient differs from it in shape, kind or device.
    Unfit,
    /// The parameter is not of a real floating type, or shares memory between its own elements.
    UnfitParameter,
}

/// Looks at a parameter's gradient before an update, and brings it into the parameter's memory
/// layout if it has another one.
pub(crate) fn prepare_gradient(parameter: &Tensor) -> Result<GradientState, TorchError> {
    let mut state = 0;
    // SAFETY: the handle is alive; the shim may replace the parameter's handle on its gradient.
    ffi::check(unsafe { ffi::pipe_gradient_prepare(parameter.as_ptr(), &mut state) })?;
    Ok(match state {
        0 => GradientState::None,
        1 => GradientState::Ready,
        2 => GradientState::Sparse,
        3 => GradientState::Unfit,
        _ => GradientState::UnfitParameter,
    })
}

impl Slots {
    pub(crate) fn new(slots: Vec<Slot>) -> Self {
        Self(slots)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn get(&self, slot: usize) -> &Slot {
        &self.0[slot]
    }

    /// For each slice, the sum of the squares of its gradient, in double precision. All slices are
    /// on one device.
    pub(crate) fn gradient_squares(&self, slices: &[Slice]) -> Result<Vec<f64>, TorchError> {
        let pieces = self.pieces(slices);
        let mut sums = vec![0.; pieces.len()];
        // SAFETY: the handles are alive, and both arrays have the length that is passed.
        ffi::check(unsafe { ffi::pipe_gradient_squares(pieces.as_ptr(), pieces.len(), sums.as_mut_ptr()) })?;
        Ok(sums)
    }

    /// Updates the slices. All of them are of one kind and on one device, and no other call has the
    /// same elements.
    pub(crate) fn update(&self, rule: &FusedRule, slices: &[Slice]) -> Result<(), TorchError> {
        let pieces = self.pieces(slices);
        // SAFETY: the handles are alive, and the array has the length that is passed. The shim
        // writes elements that this call alone has.
        ffi::check(unsafe { ffi::pipe_fused_update(rule, pieces.as_ptr(), pieces.len()) })
    }

    fn pieces(&self, slices: &[Slice]) -> Vec<ffi::Piece> {
        let piece = |slice: &Slice| {
            let slot = &self.0[slice.slot];
            let handle = |tensor: Option<&Tensor>| tensor.map_or(ptr::null(), |tensor| tensor.as_ptr());
            ffi::Piece {
                parameter: slot.parameter.as_ptr(),
                state: std::array::from_fn(|index| handle(slot.state.get(index))),
                average: handle(slot.average.as_ref()),
                start: slice.start as i64,
                length: slice.length as i64,
            }
        };
        slices.iter().map(piece).collect()
    }
}
