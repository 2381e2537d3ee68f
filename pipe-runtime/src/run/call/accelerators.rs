use tch::{Device, Tensor};

use super::forward::Call;
use crate::error::{Error, Result};
use crate::lock::lock;
use crate::model::not_finite;
use crate::torch::GradMode;

impl Call {
    /// Checks that no variable that layers changed has stopped being finite on an accelerator, and
    /// that `losses` on accelerators are finite. Values on the CPU were checked when they were
    /// computed. One flag is read back from each device; the individual flags are read only if it
    /// is set.
    pub(super) fn check_accelerators(&self, losses: &[(usize, Tensor)]) -> Result<()> {
        let pipeline = &self.pipeline;
        let all_on_cpu = pipeline.stages.iter().all(|slot| slot.device == Device::Cpu);
        if all_on_cpu || pipeline.allow_non_finite || !self.is_training() {
            return Ok(());
        }
        let _constant = GradMode::set(false);
        let mut checks = Vec::new();
        for (stage, history) in self.histories.iter().enumerate() {
            for (variable, before) in lock(history).all_changes() {
                let variables = pipeline.state.variables(stage)?;
                let variable = variables.get(variable);
                let now = &variable.tensor;
                if now.device() != Device::Cpu && (now.is_floating_point() || now.is_complex()) {
                    let broken = now.f_isfinite()?.f_all()?.f_logical_not()?;
                    let broken = broken.f_logical_and(&before.f_isfinite()?.f_all()?)?;
                    checks.push((broken, format!("stage {stage}: {}", not_finite(&variable.name))));
                }
            }
        }
        for (micro_batch, loss) in losses.iter().filter(|(_, loss)| loss.device() != Device::Cpu) {
            checks.push((loss.f_isfinite()?.f_all()?.f_logical_not()?, loss_is_not_finite(*micro_batch)));
        }
        let mut devices: Vec<Device> = checks.iter().map(|(flag, _)| flag.device()).collect();
        devices.sort_by_key(|device| format!("{device:?}"));
        devices.dedup();
        for device in devices {
            let here = || checks.iter().filter(|(flag, _)| flag.device() == device);
            let flags: Vec<_> = here().map(|(flag, _)| flag.shallow_clone()).collect();
            if bool::try_from(Tensor::f_stack(&flags, 0)?.f_any()?)? {
                for (flag, message) in here() {
                    if bool::try_from(flag)? {
                        return Err(Error::Output(message.clone()));
                    }
                }
            }
        }
        Ok(())
    }
}

/// The error message for a loss that is not finite.
pub(crate) fn loss_is_not_finite(micro_batch: usize) -> String {
    format!(
        "the loss of micro-batch {micro_batch} is not finite: nothing has been changed. A mean over nothing is NaN (rows that are all ignored): \
         weigh the micro-batches by what is not ignored, with `Reduction::Weighted`. A loss scaler that counts on such steps allows them by \
         `allow_non_finite(true)`"
    )
}
