mod file;
mod select;

use std::collections::BTreeMap;
use std::ops::Div;
use std::sync::Mutex;

use tch::nn::{Path, VarStore};
use tch::{Device, Tensor};

use crate::error::{Error, Result};
use crate::lock::lock;
use crate::model::devices::{Across, Placement};
use crate::model::{Devices, LayerPlan, Plan};
use crate::torch::{ELSEWHERE, Variable, is_elsewhere, make_elsewhere};

pub use file::{LoadReport, Loader};

pub(crate) use select::selected;

/// The variables of a pipelined model: one store per stage's device. Their names do not depend on
/// the partitioning.
///
/// A struct's generated `vars(&devices)` creates them. The result has one method per layer, which
/// returns the layer's path:
///
/// ```
/// # use pipe_runtime::{Devices, pipeline};
/// # use tch::nn;
/// # #[pipeline]
/// # struct Net {
/// #     #[device("cpu")]
/// #     encoder: nn::Linear,
/// #     #[device("cpu")]
/// #     head: nn::Linear,
/// # }
/// let vars = Net::vars(&Devices::cpu(Net::STAGES))?;
/// let net = Net {
///     encoder: nn::linear(vars.encoder(), 16, 8, Default::default()),
///     head: nn::linear(vars.head(), 8, 2, Default::default()),
/// };
/// let file = std::env::temp_dir().join("pipe-vars.safetensors");
/// vars.save(&file)?; // under the names of the plain model, `encoder.weight` and so on
/// vars.load(&file)?;
/// assert_eq!(vars.freeze("encoder")?, 2);
/// # Ok::<(), pipe_runtime::Error>(())
/// ```
///
/// The stores share one set of variables, so any tch optimizer built over
/// [`var_store`](Vars::var_store) trains the whole model.
#[derive(Debug)]
pub struct Vars {
    plan: Plan,
    /// The stage of each annotated stage.
    stage_of: Vec<usize>,
    /// The processes of the stages, if there are several.
    across: Option<Across>,
    /// The device of each stage; the CPU for those of other processes.
    devices: Vec<Device>,
    /// All variables, on the first stage's device.
    all: VarStore,
    /// For each stage, a store on its device. Those of other processes make variables without
    /// memory.
    stages: Vec<VarStore>,
    /// For each repeated child: the largest number of layers for which paths were created.
    lengths: Mutex<Vec<(String, usize)>>,
}

impl Vars {
    /// Creates empty stores for a plan.
    ///
    /// # Errors
    ///
    /// Fails if `devices` has no devices or more than one per stage, or if one of them is not on
    /// this machine or is one that tch cannot address.
    #[doc(hidden)]
    pub fn new(plan: &Plan, devices: &Devices) -> Result<Self> {
        let mut stages: Vec<VarStore> = Vec::new();
        let Placement { devices, stage_of, across } = devices.place(plan)?;
        let is_here = |stage: usize| across.as_ref().is_none_or(|across| across.is_here(stage));
        for (stage, &device) in devices.iter().enumerate() {
            if !is_here(stage) {
                make_elsewhere()?;
            }
            let mut store = VarStore::new(if is_here(stage) { device } else { ELSEWHERE });
            if let Some(first) = stages.first() {
                store.variables_ = first.variables_.clone();
            }
            stages.push(store);
        }
        let mut all = VarStore::new(devices[0]);
        all.variables_ = stages[0].variables_.clone();
        Ok(Self { plan: *plan, stage_of, across, devices, all, stages, lengths: Mutex::default() })
    }

    /// All variables, on all devices. Build an optimizer over this store.
    ///
    /// The store's own `device` is that of the first stage.
    pub fn var_store(&self) -> &VarStore {
        &self.all
    }

    /// The device of each stage. With fewer devices than annotated stages, some are merged.
    pub fn devices(&self) -> Vec<Device> {
        self.devices.clone()
    }

    /// The processes of the stages, if there are several.
    pub(crate) fn across(&self) -> Option<&Across> {
        self.across.as_ref()
    }

    /// Whether the variable of this name belongs to a stage of this process. One of another process
    /// has a shape and a kind here, and no memory.
    pub fn is_here(&self, name: &str) -> bool {
        let stage = self.stage_of_variable(name);
        match &self.across {
            Some(across) => stage.is_none_or(|stage| across.is_here(stage)),
            None => true,
        }
    }

    /// The stage of each annotated stage.
    pub(crate) fn merging(&self) -> &[usize] {
        &self.stage_of
    }

    /// Returns the path of a single layer.
    #[doc(hidden)]
    pub fn layer(&self, name: &str) -> Path<'_> {
        self.path(name, 0, 1)
    }

    /// Returns the paths of an array of layers.
    #[doc(hidden)]
    pub fn layers_array<const N: usize>(&self, name: &str) -> [Path<'_>; N] {
        self.note_length(name, N);
        std::array::from_fn(|index| self.path(name, index, N).sub(index))
    }

    /// Returns the paths of `length` layers.
    #[doc(hidden)]
    pub fn layers(&self, name: &str, length: usize) -> Vec<Path<'_>> {
        self.note_length(name, length);
        (0..length).map(|index| self.path(name, index, length).sub(index)).collect()
    }

    fn note_length(&self, name: &str, length: usize) {
        let mut lengths = lock(&self.lengths);
        match lengths.iter_mut().find(|(known, _)| known == name) {
            Some((_, most)) => *most = length.max(*most),
            None => lengths.push((name.to_owned(), length)),
        }
    }

    fn length(&self, name: &str) -> Option<usize> {
        let lengths = lock(&self.lengths);
        lengths.iter().find(|(known, _)| known == name).map(|&(_, length)| length)
    }

    /// The path of child `name`, in the store of the stage that runs element `index` of it.
    fn path(&self, name: &str, index: usize, length: usize) -> Path<'_> {
        let stage = self.stage_of(name, index, length).expect("generated code names its own layers");
        self.stages[stage].root().sub(name)
    }

    /// The stage that runs child `name`, or element `index` of it if it is repeated.
    fn stage_of(&self, name: &str, index: usize, length: usize) -> Option<usize> {
        let runs = |layer: &LayerPlan| {
            layer.name == name
                && layer.repeat.is_none_or(|repeat| repeat.split.range(repeat.part, length).contains(&index))
        };
        let annotated = self.plan.stages.iter().position(|stage| stage.layers.iter().any(runs))?;
        Some(self.stage_of[annotated])
    }

    /// The stage to which the variable of this name belongs.
    fn stage_of_variable(&self, name: &str) -> Option<usize> {
        let mut segments = name.split('.');
        let child = segments.next()?;
        let index = segments.next().and_then(|index| index.parse().ok()).unwrap_or(0);
        self.stage_of(child, index, self.length(child).unwrap_or(1))
    }

    /// Checks that every variable is on the device of the stage that runs its layer.
    ///
    /// # Errors
    ///
    /// Fails with the name of the first variable that is not.
    pub(crate) fn check_devices(&self) -> Result<()> {
        let variables: BTreeMap<_, _> = self.var_store().variables().into_iter().collect();
        for (name, variable) in variables {
            let Some(stage) = self.stage_of_variable(&name).filter(|_| !is_elsewhere(&variable)) else { continue };
            on_its_stages_device(&name, stage, self.stages[stage].device(), variable.device())?;
        }
        Ok(())
    }

    /// All variables, sorted by name, with their stages; those of other processes too.
    ///
    /// # Errors
    ///
    /// Fails if a variable belongs to no layer.
    pub(crate) fn by_stage(&self) -> Result<Vec<Variable>> {
        let mut named: Vec<_> = self.var_store().variables().into_iter().collect();
        named.sort_by(|(a, _), (b, _)| a.cmp(b));
        let with_stage = |(name, tensor): (String, Tensor)| match self.stage_of_variable(&name) {
            Some(stage) => Ok(Variable { name, tensor, stage }),
            None => Err(Error::Setting(format!(
                "the variable `{name}` belongs to no layer of `{}`, so no stage looks after it: make it by the path of the layer that uses it \
                 (`vars.layer()`, or `vars.layer() / \"name\"`)",
                self.plan.name
            ))),
        };
        named.into_iter().map(with_stage).collect()
    }

    /// For each stage, the bytes of its layers' variables, and of the gradients of those that are
    /// trained.
    pub(crate) fn training_bytes(&self) -> Vec<(u64, u64)> {
        let mut bytes = vec![(0, 0); self.stages.len()];
        for (name, tensor) in self.var_store().variables() {
            if let Some(stage) = self.stage_of_variable(&name) {
                let own = (tensor.numel() * tensor.kind().elt_size_in_bytes()) as u64;
                bytes[stage].0 += own;
                bytes[stage].1 += if tensor.requires_grad() { own } else { 0 };
            }
        }
        bytes
    }
}

fn on_its_stages_device(name: &str, stage: usize, expected: Device, found: Device) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::Setting(format!(
        "`{name}` is on {}, but its layer runs in stage {stage} on {}: a layer should have all parameters on a single device, that of its stage; \
         make them by the layer's own path, and do not move them",
        Devices::new([found]),
        Devices::new([expected])
    )))
}

/// Returns the paths of an array of layers in a block.
#[doc(hidden)]
pub fn sub_paths<'a, const N: usize>(path: &Path<'a>, name: &str) -> [Path<'a>; N] {
    std::array::from_fn(|index| path.div(name).sub(index))
}

/// Returns the paths of `length` layers in a block.
#[doc(hidden)]
pub fn sub_paths_vec<'a>(path: &Path<'a>, name: &str, length: usize) -> Vec<Path<'a>> {
    (0..length).map(|index| path.div(name).sub(index)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_on_another_device_than_its_stage_is_named() {
        let gpu = Device::Cuda(1);
        assert!(on_its_stages_device("head.weight", 1, gpu, gpu).is_ok());
        let error = on_its_stages_device("head.weight", 1, gpu, Device::Cpu).unwrap_err().to_string();
        assert!(error.starts_with("`head.weight` is on cpu, but its layer runs in stage 1 on cuda:1"), "{error}");
    }
}
