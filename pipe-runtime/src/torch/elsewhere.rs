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

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;
    use tch::nn::{self, Init, VarStore};

    /// Makes variables of all kinds, and the next random number.
    fn make(device: Device) -> (Vec<Tensor>, f64) {
        tch::manual_seed(11);
        let store = VarStore::new(device);
        let root = store.root();
        for (number, size) in [1, 15, 16, 17, 1000, (2 << 20) + 5, 3 << 20].into_iter().enumerate() {
            let path = &root / number;
            let _ = path.var("randn", &[size], Init::Randn { mean: 0.5, stdev: 2. });
            let _ = path.var("uniform", &[size], Init::Uniform { lo: -1., up: 3. });
            let _ = path.var("const", &[size], Init::Const(2.));
            let _ = path.zeros_no_train("zeros", &[size]);
        }
        path_of_layers(&root);
        let mut variables: Vec<_> = store.variables().into_iter().collect();
        variables.sort_by(|(a, _), (b, _)| a.cmp(b));
        let next = Tensor::rand([1], (Kind::Double, Device::Cpu)).double_value(&[]);
        (variables.into_iter().map(|(_, variable)| variable).collect(), next)
    }

    fn path_of_layers(root: &nn::Path<'_>) {
        nn::linear(root / "linear", 7, 5, Default::default());
        nn::conv2d(root / "conv", 3, 8, 3, Default::default());
        nn::embedding(root / "embedding", 100, 16, Default::default());
        nn::batch_norm2d(root / "norm", 8, Default::default());
        nn::layer_norm(root / "layer_norm", vec![8], Default::default());
        nn::lstm(&(root / "lstm"), 4, 6, Default::default());
        let orthogonal = Init::Orthogonal { gain: 1. };
        let _ = (root / "own").var("orthogonal", &[6, 4], orthogonal);
        let _ = (root / "own").var_copy("copied", &Tensor::from_slice(&[1_f32, 2.]));
    }

    #[test]
    fn variables_elsewhere_have_shapes_and_no_memory_and_random_numbers_go_on() {
        make_elsewhere().unwrap();
        let (here, next_here) = make(Device::Cpu);
        let (there, next_there) = make(ELSEWHERE);
        assert_eq!(next_there, next_here);
        assert_eq!(here.len(), there.len());
        for (here, there) in here.iter().zip(&there) {
            assert_eq!((there.size(), there.kind()), (here.size(), here.kind()));
            assert_eq!(there.requires_grad(), here.requires_grad());
            assert!(is_elsewhere(there) && !is_elsewhere(here));
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
