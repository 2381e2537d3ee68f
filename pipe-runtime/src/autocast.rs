use tch::{Device, Kind};

use crate::error::{Error, Result};
use crate::torch::Autocast;

/// Runs `body` with autocast on and returns its result, like `torch.autocast`: operators that
/// benefit from it compute in `kind`, on all devices of the same type as `device`.
///
/// tch's own [`tch::autocast`] does nothing without CUDA. This function also works on the CPU.
/// libtorch 2.11 has no LSTM in bfloat16 on the CPU: the layer fails there, whereas a GRU stays in
/// float32.
///
/// # Errors
///
/// Fails if `kind` is neither `Half` nor `BFloat16`, or if `device` is neither the CPU nor a CUDA
/// device. `body` is not run in these cases.
///
/// ```
/// use tch::{Device, Kind, Tensor};
///
/// let x = Tensor::ones([2, 2], (Kind::Float, Device::Cpu));
/// let y = pipe_runtime::autocast(Device::Cpu, Kind::BFloat16, || x.matmul(&x))?;
/// assert_eq!(y.kind(), Kind::BFloat16);
/// # Ok::<(), pipe_runtime::Error>(())
/// ```
pub fn autocast<T>(device: Device, kind: Kind, body: impl FnOnce() -> T) -> Result<T> {
    let half = match kind {
        Kind::Half => true,
        Kind::BFloat16 => false,
        other => return Err(Error::Setting(format!("autocast computes in Half or BFloat16, not in {other:?}"))),
    };
    let cuda = match device {
        Device::Cpu => false,
        Device::Cuda(_) => true,
        other => return Err(Error::Setting(format!("autocast is for the CPU and CUDA, not for {other:?}"))),
    };
    let _entered = Autocast::enter(cuda, half)?;
    Ok(body())
}
