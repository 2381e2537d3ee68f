mod replace;
mod saved;
mod select;

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::ops::Div;
use std::path::Path as FilePath;
use std::sync::Mutex;

use safetensors::Dtype;
use tch::nn::{Path, VarStore};
use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::lock::lock;
use crate::model::{Devices, LayerPlan, Plan};
use crate::torch::Variable;
use replace::replace;
use saved::{Saved, SavedTensor};

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
    stages: Vec<VarStore>,
    /// For each repeated child: the largest number of layers for which paths were created.
    lengths: Mutex<Vec<(String, usize)>>,
}

impl Vars {
    /// Creates empty stores for a plan.
    ///
    /// # Errors
    ///
    /// Fails if `devices` does not have one device per stage, or if one of them is not on this
    /// machine or is one that tch cannot address.
    #[doc(hidden)]
    pub fn new(plan: &Plan, devices: &Devices) -> Result<Self> {
        let mut stages: Vec<VarStore> = Vec::new();
        for &device in devices.for_stages(plan.stages.len())? {
            let mut store = VarStore::new(device);
            if let Some(first) = stages.first() {
                store.variables_ = first.variables_.clone();
            }
            stages.push(store);
        }
        Ok(Self { plan: *plan, stages, lengths: Mutex::default() })
    }

    /// All variables, on all devices. Build an optimizer over this store.
    ///
    /// The store's own `device` is that of the first stage.
    pub fn var_store(&self) -> &VarStore {
        &self.stages[0]
    }

    /// The device of each stage.
    pub fn devices(&self) -> Vec<Device> {
        self.stages.iter().map(VarStore::device).collect()
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
        self.plan.stages.iter().position(|stage| stage.layers.iter().any(runs))
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
            let Some(stage) = self.stage_of_variable(&name) else { continue };
            on_its_stages_device(&name, stage, self.stages[stage].device(), variable.device())?;
        }
        Ok(())
    }

    /// All variables, sorted by name, with their stages.
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

    /// For each stage, the bytes of its layers' variables in training, where trained variables also
    /// have a gradient.
    pub(crate) fn training_bytes(&self) -> Vec<u64> {
        let mut bytes = vec![0; self.stages.len()];
        for (name, tensor) in self.var_store().variables() {
            if let Some(stage) = self.stage_of_variable(&name) {
                let copies = if tensor.requires_grad() { 2 } else { 1 };
                bytes[stage] += copies * (tensor.numel() * tensor.kind().elt_size_in_bytes()) as u64;
            }
        }
        bytes
    }

    /// Writes all variables to a safetensors file, with any extension.
    ///
    /// The file is complete at every moment: a new one is written beside it, synced to the disk, and
    /// takes its place in one step. If saving fails, or the process ends, the file is the old one. A
    /// process that is killed may leave a file `.*.partial` in the folder.
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be written.
    pub fn save(&self, file: impl AsRef<FilePath>) -> Result<()> {
        let file = file.as_ref();
        let mut named: Vec<_> = self.var_store().variables().into_iter().collect();
        named.sort_by(|(a, _), (b, _)| a.cmp(b));
        let on_cpu: Vec<_> = named
            .into_iter()
            .map(|(name, tensor)| (name, tensor.detach().to_device(Device::Cpu).contiguous()))
            .collect();
        let write = |new: &FilePath| Tensor::write_safetensors(&on_cpu, new).map_err(io::Error::other);
        replace(file, write).map_err(|error| Error::File(format!("cannot write {}: {error}", file.display())))
    }

    /// Reads all variables from a safetensors file: one that [`save`](Vars::save) wrote under any
    /// partitioning, or one of a plain tch or PyTorch model with the same names.
    ///
    /// The variables keep their kinds and devices: floats of any kind are converted to floats, and
    /// integers to integers. For tied weights, Python's `safetensors.torch.save_model` saves one
    /// and records the names of the others, which are recognized.
    ///
    /// Use this instead of tch's `VarStore::load` on [`var_store`](Vars::var_store), which changes
    /// the kinds of the variables to those of the file without notice.
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be read, if its names and shapes are not exactly those of the
    /// model, if it has integers, `bool` or another kind where the model has floats, or the
    /// reverse, or if a value is out of the range of the variable's kind. Then no variable has
    /// changed.
    pub fn load(&self, file: impl AsRef<FilePath>) -> Result<()> {
        let file = file.as_ref();
        let unreadable = |reason| Error::File(format!("cannot read {}: {reason}", file.display()));
        let saved = Saved::read(file).map_err(unreadable)?;
        let variables: BTreeMap<_, _> = self.var_store().variables().into_iter().collect();

        let mut misfits = Vec::new();
        let mut values = Vec::new();
        let mut read = HashSet::new();
        for (name, variable) in &variables {
            let Some(tensor) = saved.tensor(name) else {
                misfits.push(format!("`{name}` is missing"));
                continue;
            };
            read.insert(tensor.name);
            let wrong = match fit(&tensor, variable) {
                Ok(kind) => {
                    let value = Tensor::f_from_data_size(tensor.data, &variable.size(), kind)?;
                    let converted = value.f_to_kind(variable.kind())?;
                    let lost = first_lost(&value, &converted)?;
                    values.push((variable, converted));
                    lost.map(|lost| format!("has the value {lost}, out of range of the model's {:?}", variable.kind()))
                }
                Err(wrong) => Some(wrong),
            };
            if let Some(wrong) = wrong {
                let tied = if tensor.name == name { String::new() } else { format!(" (saved as `{}`)", tensor.name) };
                misfits.push(format!("`{name}`{tied} {wrong}"));
            }
        }
        let unknown = saved.names().filter(|name| !read.contains(name));
        misfits.extend(unknown.map(|name| format!("the model has no `{name}`")));
        if !misfits.is_empty() {
            return Err(Error::File(format!("{} does not fit the model: {}", file.display(), misfits.join("; "))));
        }
        tch::no_grad(|| values.into_iter().try_for_each(|(variable, value)| variable.shallow_clone().f_copy_(&value)))?;
        Ok(())
    }
}

/// The kind in which the tensor is read for the variable, or the reason why it cannot be.
fn fit(tensor: &SavedTensor<'_>, variable: &Tensor) -> std::result::Result<Kind, String> {
    let (shape, wanted) = (tensor.shape, variable.size());
    if !shape.iter().map(|&size| size as u64).eq(wanted.iter().map(|&size| size as u64)) {
        return Err(format!("has shape {shape:?}, the model wants {wanted:?}"));
    }
    let (dtype, wanted) = (tensor.dtype, variable.kind());
    match kind(dtype) {
        None => Err(format!("has kind {dtype}, which is not read")),
        Some(kind) if converts(kind, wanted) => Ok(kind),
        Some(_) => Err(format!("has kind {dtype}, which is not converted to the model's {wanted:?}")),
    }
}

/// Whether a conversion keeps the meaning of a value, except for rounding and range. An integer or
/// a `bool` for a float is something else: a quantized weight, an index or a mask.
fn converts(from: Kind, to: Kind) -> bool {
    let both = |kinds: &[Kind]| kinds.contains(&from) && kinds.contains(&to);
    from == to || both(&FLOATS) || both(&INTEGERS)
}

/// The first value that the conversion did not keep, if there is one: a finite value that became
/// infinite, or an integer that became another one.
fn first_lost(value: &Tensor, converted: &Tensor) -> Result<Option<String>> {
    if value.kind() == converted.kind() {
        return Ok(None);
    }
    let is_float = FLOATS.contains(&value.kind());
    let lost = match is_float {
        true => value.f_isfinite()?.f_logical_and(&converted.f_isfinite()?.f_logical_not()?)?,
        false => value.f_ne_tensor(&converted.f_to_kind(value.kind())?)?,
    };
    let lost = value.f_masked_select(&lost)?;
    Ok(match lost.numel() {
        0 => None,
        _ if is_float => Some(format!("{:?}", lost.f_double_value(&[0])?)),
        _ => Some(lost.f_int64_value(&[0])?.to_string()),
    })
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

const FLOATS: [Kind; 4] = [Kind::Half, Kind::BFloat16, Kind::Float, Kind::Double];

const INTEGERS: [Kind; 5] = [Kind::Uint8, Kind::Int8, Kind::Int16, Kind::Int, Kind::Int64];

fn kind(dtype: Dtype) -> Option<Kind> {
    Some(match dtype {
        Dtype::BOOL => Kind::Bool,
        Dtype::U8 => Kind::Uint8,
        Dtype::I8 => Kind::Int8,
        Dtype::I16 => Kind::Int16,
        Dtype::I32 => Kind::Int,
        Dtype::I64 => Kind::Int64,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::F32 => Kind::Float,
        Dtype::F64 => Kind::Double,
        _ => return None,
    })
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
