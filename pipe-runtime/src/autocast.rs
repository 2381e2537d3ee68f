use tch::{Device, Kind};

use crate::error::{Error, Result};
use crate::torch::Autocast;

/// Runs `body` with autocast: on devices of the kind of `device`, operators that profit from it
/// compute in `kind`.
///
/// Unlike [`tch::autocast`], which does nothing without CUDA, this works on the CPU too. (libtorch
/// 2.11 has no LSTM in bfloat16 on the CPU, so that is an error of the layer; a GRU stays in
/// float32.)
///
/// # Errors
///
/// Fails if autocast does not exist for this kind or device. Then `body` has not run.
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
