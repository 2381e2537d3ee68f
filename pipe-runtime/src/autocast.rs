use tch::{Device, Kind};

use crate::error::{Error, Result};
use crate::torch::Autocast;

/// Runs `body` with autocast enabled on this thread, for all CUDA devices if `device` is one and
/// for the CPU otherwise. Operators that libtorch lists as suitable compute in `kind`, which is
/// `Half` or `BFloat16`.
///
/// [`tch::autocast`] has no effect without CUDA; this function works on the CPU too. libtorch 2.11
/// has no LSTM in bfloat16 on the CPU, so an LSTM layer fails under autocast there. A GRU computes
/// in float32.
///
/// # Errors
///
/// [`Error::Setting`] if autocast does not support this kind or device; [`Error::Torch`] if
/// libtorch cannot enable it. `body` has not run then.
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
