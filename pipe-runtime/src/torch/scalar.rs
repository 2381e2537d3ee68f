//! Operators with a number, as libtorch's own.
//!
//! tch's fallible methods for them panic when they fail
//! (`findings/tch_fallible_methods_with_a_number_panic.sh`).

use std::ptr;

use tch::Tensor;

use super::{TorchError, ffi};

/// `value * factor`, as `mul_scalar`.
pub(crate) fn times(value: &Tensor, factor: f64) -> Result<Tensor, TorchError> {
    let mut product = ptr::null_mut();
    // SAFETY: the handle is alive. The result is a new handle.
    ffi::check(unsafe { ffi::pipe_times(value.as_ptr(), factor, &mut product) })?;
    Ok(ffi::take(product).expect("the shim wrote a tensor"))
}

/// Divides `value` in place, as `div_scalar_`.
pub(crate) fn divide(value: &mut Tensor, divisor: f64) -> Result<(), TorchError> {
    // SAFETY: the handle is alive, and borrowed exclusively.
    ffi::check(unsafe { ffi::pipe_divide(value.as_mut_ptr(), divisor) })
}

/// A tensor like `value` that is full of `number`.
pub(crate) fn full_like(value: &Tensor, number: f64) -> Result<Tensor, TorchError> {
    let mut full = ptr::null_mut();
    // SAFETY: the handle is alive. The result is a new handle.
    ffi::check(unsafe { ffi::pipe_full_like(value.as_ptr(), number, &mut full) })?;
    Ok(ffi::take(full).expect("the shim wrote a tensor"))
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn they_are_tchs_and_fail_with_an_error() {
        let value = Tensor::from_slice(&[1.5_f32, -0.25]).set_requires_grad(true);
        let product = times(&value, 1. / 3.).unwrap();
        assert!(product.equal(&(&value * (1. / 3.))) && product.requires_grad());
        assert!(full_like(&value, 0.1).unwrap().equal(&Tensor::full([2], 0.1, (Kind::Float, Device::Cpu))));
        let mut quotient = value.detach().copy();
        divide(&mut quotient, 3.).unwrap();
        assert!(quotient.equal(&(value.detach() / 3.)));

        let mut flags = Tensor::zeros([2], (Kind::Bool, Device::Cpu));
        assert!(divide(&mut flags, 3.).unwrap_err().to_string().contains("can't be cast"));
    }
}
