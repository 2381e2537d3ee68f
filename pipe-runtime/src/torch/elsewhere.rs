//! Variables of other processes, which have no memory here.

use tch::{Device, Tensor};

use super::{TorchError, ffi};

/// The device on which variables of other processes are made. libtorch's packages do not have it.
pub(crate) const ELSEWHERE: Device = Device::Vulkan;

/// From now on, tensors on [`ELSEWHERE`] are made without memory. Random numbers that would fill
/// them are drawn all the same.
pub(crate) fn make_elsewhere() -> Result<(), TorchError> {
    // SAFETY: registers kernels, once per process.
    ffi::check(unsafe { ffi::pipe_elsewhere_install() })
}

/// Whether the tensor has no memory here.
pub(crate) fn is_elsewhere(tensor: &Tensor) -> bool {
    // SAFETY: the handle is alive.
    unsafe { ffi::pipe_is_elsewhere(tensor.as_ptr()) != 0 }
}

/// Whether two handles are on one tensor, which may have no memory.
pub(crate) fn is_same(a: &Tensor, b: &Tensor) -> bool {
    // SAFETY: both handles are alive.
    unsafe { ffi::pipe_is_same(a.as_ptr(), b.as_ptr()) != 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;
    use tch::nn::{self, VarStore};

    /// That the random numbers go on as if they had filled the variables is tested with several
    /// processes.
    #[test]
    fn variables_elsewhere_have_shapes_and_no_memory() {
        make_elsewhere().unwrap();
        let made = |device: Device| {
            let store = VarStore::new(device);
            nn::linear(store.root() / "linear", 7, 5, Default::default());
            nn::batch_norm2d(store.root() / "norm", 8, Default::default());
            let _ = store.root().var_copy("copied", &Tensor::from_slice(&[1_f32, 2.]).to_device(device));
            let mut variables: Vec<_> = store.variables().into_iter().collect();
            variables.sort_by(|(a, _), (b, _)| a.cmp(b));
            variables
        };
        for ((name, here), (_, there)) in made(Device::Cpu).iter().zip(&made(ELSEWHERE)) {
            assert_eq!((there.size(), there.kind()), (here.size(), here.kind()), "{name}");
            assert_eq!(there.requires_grad(), here.requires_grad(), "{name}");
            assert!(is_elsewhere(there) && !is_elsewhere(here), "{name}");
        }
    }

    #[test]
    fn what_is_elsewhere_cannot_be_read_and_says_so() {
        make_elsewhere().unwrap();
        let tensor = Tensor::zeros([2], (Kind::Float, ELSEWHERE));
        assert!(tensor.f_double_value(&[0]).is_err());
        assert!(tensor.f_to_device(Device::Cpu).unwrap_err().to_string().contains("meta"));
    }
}
