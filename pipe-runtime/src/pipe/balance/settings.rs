//! The settings of a [`Balance`], with their defaults.

use pipe_schedule::support::partition::{Chain, Misfit};
use tch::Device;

use super::{Balance, misfit};
use crate::error::{Error, Result};
use crate::model::{Devices, Layer, Model};
use crate::run::{check_chunks, check_threads};

/// The settings after defaults are applied.
pub(super) struct Settings {
    pub(super) stages: usize,
    pub(super) devices: StageDevices,
    /// The process of each stage; empty if all are in one.
    pub(super) process_of: Vec<usize>,
}

/// The names of the stages' devices.
pub(super) struct StageDevices {
    pub(super) names: Vec<String>,
    /// Whether they were set or annotated; otherwise they are assumed.
    pub(super) known: bool,
}

impl<M> Balance<'_, M>
where
    M: Model + Layer<M::Input, Out = M::Output>,
{
    /// Checks the settings that do not depend on stages.
    pub(super) fn check(&self) -> Result<()> {
        let setting = |text: &str| Err(Error::Setting(text.into()));
        if !self.is_whole {
            return setting(
                "the variables are those of several processes, and one process measures all layers: make them without \
                 `across`, with `Devices::cpu`",
            );
        }
        self.chunks.map_or(Ok(()), check_chunks)?;
        check_threads(self.intra_op_threads)?;
        if !(self.param_scale.is_finite() && self.param_scale >= 0.) {
            return setting("the parameters' scale must be a number from 0 on");
        }
        if !(self.seconds_per_byte.is_finite() && self.seconds_per_byte >= 0.) {
            return setting("the seconds per byte must be a number from 0 on");
        }
        Ok(())
    }

    /// Checks the settings, and applies the defaults.
    pub(super) fn settings(&self) -> Result<Settings> {
        self.check()?;
        let annotated: Vec<_> = M::PLAN.stages.iter().map(|stage| stage.device.to_owned()).collect();
        let given = self.devices.as_ref().map(Devices::names);
        let stages = self.stages.or(given.as_ref().map(Vec::len)).unwrap_or(annotated.len());
        if stages == 0 {
            return Err(misfit(Misfit::NoStages, stages, &[], &Chain::default()));
        }
        let devices = match given {
            Some(names) if names.len() != stages => {
                return Err(Error::Setting(format!(
                    "{} devices were given for {stages} stages: give one for each stage",
                    names.len()
                )));
            }
            Some(names) => StageDevices { names, known: true },
            None if annotated.len() == stages && !annotated[0].is_empty() => {
                StageDevices { names: annotated, known: true }
            }
            None => StageDevices { names: (0..stages).map(|stage| format!("cuda:{stage}")).collect(), known: false },
        };
        let process_of = self.process_of(stages, devices.known)?;
        Ok(Settings { stages, devices, process_of })
    }

    /// The device of all variables, or `otherwise` if there are none.
    pub(super) fn device(&self, otherwise: impl FnOnce() -> Device) -> Result<Device> {
        let mut devices: Vec<Device> = Vec::new();
        for variable in &self.variables {
            if !devices.contains(&variable.tensor.device()) {
                devices.push(variable.tensor.device());
            }
        }
        match devices.as_slice() {
            [] => Ok(otherwise()),
            [device] => Ok(*device),
            several => Err(Error::Setting(format!(
                "the model's variables lie on several devices ({}), and layers are measured side by side on one: make the \
                 variables with `Devices::new` of one device for all stages",
                Devices::new(several)
            ))),
        }
    }
}
