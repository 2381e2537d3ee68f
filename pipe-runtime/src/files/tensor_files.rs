//! The tensors of one safetensors file, or of several with an index.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde_json::Value;
use tch::{Kind, Tensor};

use super::dtype::{converts, is_float, kind};
use super::piecewise::Source;
use super::safetensors::SafetensorsFile;
use super::write::{INDEX, PART};
use crate::error::Error;

/// The name of a single file in a folder.
const SINGLE: &str = "model.safetensors";

/// Open files, and what is in them. Nothing of the tensors has been read yet.
pub(crate) struct TensorFiles {
    files: Vec<SafetensorsFile>,
    tensors: BTreeMap<String, (usize, TensorInfo)>,
    /// The names of tied weights that a file leaves out, with those that it keeps.
    aliases: BTreeMap<String, String>,
}

/// A tensor in a file.
pub(crate) struct SavedTensor<'f> {
    /// Its name in the file.
    pub(crate) name: &'f str,
    dtype: Dtype,
    shape: &'f [usize],
    file: &'f SafetensorsFile,
    start: usize,
}

impl TensorFiles {
    /// Opens a safetensors file, an index of several (`*.json`), or a folder with an index or with
    /// one file. The error is the reason why it cannot be read.
    pub(crate) fn open(path: &Path) -> Result<Self, String> {
        if path.is_dir() {
            let (index, single) = (path.join(INDEX), path.join(SINGLE));
            return match (index.exists(), single.exists()) {
                (true, _) => Self::open(&index),
                (false, true) => Self::open(&single),
                (false, false) => Err(format!("the folder has neither `{INDEX}` nor `{SINGLE}`")),
            };
        }
        let mut this = Self { files: Vec::new(), tensors: BTreeMap::new(), aliases: BTreeMap::new() };
        if path.extension() != Some(OsStr::new("json")) {
            this.add(path)?;
            return Ok(this);
        }
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        let map = weight_map(&text)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut files: Vec<&str> = map.values().map(String::as_str).collect();
        files.sort_unstable();
        files.dedup();
        for file in &files {
            if !is_in_its_folder(file) {
                return Err(format!("the index names the file `{file}`, which is not one of its own folder"));
            }
            this.add(&folder.join(file)).map_err(|reason| format!("`{file}`: {reason}"))?;
        }
        for (name, file) in &map {
            let found = this.tensors.get(name).map(|&(number, _)| files[number]);
            if found != Some(file.as_str()) {
                return Err(format!("the index says that `{name}` is in `{file}`, but it is not"));
            }
        }
        Ok(this)
    }

    fn add(&mut self, path: &Path) -> Result<(), String> {
        let file = SafetensorsFile::open(path)?;
        for (name, info) in file.metadata.tensors() {
            if self.tensors.insert(name.clone(), (self.files.len(), info.clone())).is_some() {
                return Err(format!("`{name}` is in another file too"));
            }
        }
        let notes = file.metadata.metadata().iter().flatten();
        self.aliases.extend(notes.map(|(name, kept)| (name.clone(), kept.clone())));
        self.files.push(file);
        Ok(())
    }

    /// The names of the tensors, in alphabetical order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The tensor with this name, or, if the file leaves the name out, the tensor that it is tied
    /// to.
    ///
    /// For tied weights, Python's `safetensors.torch.save_model` keeps one and records
    /// `name: kept name` for each other one in the metadata. Other metadata does not name tensors.
    pub(crate) fn get(&self, name: &str) -> Option<SavedTensor<'_>> {
        self.kept(name).or_else(|| self.kept(self.aliases.get(name)?))
    }

    /// The names of tied weights that a file leaves out.
    pub(crate) fn aliases(&self) -> impl Iterator<Item = &str> {
        let is_one = |(name, kept): &(&String, &String)| !self.is_kept(name) && self.is_kept(kept);
        self.aliases.iter().filter(is_one).map(|(name, _)| name.as_str())
    }

    /// Which part of a model a file has, if it is marked so.
    pub(crate) fn part(&self) -> Option<&str> {
        let notes = self.files.iter().filter_map(|file| file.metadata.metadata().as_ref()?.get(PART));
        notes.map(String::as_str).next()
    }

    /// Whether a file has a tensor of this name.
    pub(crate) fn is_kept(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    fn kept(&self, name: &str) -> Option<SavedTensor<'_>> {
        let (name, (file, info)) = self.tensors.get_key_value(name)?;
        let start = info.data_offsets.0;
        Some(SavedTensor { name, dtype: info.dtype, shape: &info.shape, file: &self.files[*file], start })
    }
}

/// The file of each tensor, from the text of an index.
fn weight_map(text: &str) -> Result<BTreeMap<String, String>, String> {
    let index: Value = serde_json::from_str(text).map_err(|error| format!("it is not an index: {error}"))?;
    let map = index.get("weight_map").ok_or("it is not an index: it has no `weight_map`")?;
    serde_json::from_value(map.clone()).map_err(|error| format!("its `weight_map` is not one of names: {error}"))
}

impl SavedTensor<'_> {
    /// The reason why the tensor is not one for `variable`: its shape, its kind, or a number that
    /// the variable's kind does not have. The error is that of reading.
    pub(crate) fn misfit(&self, variable: &Tensor) -> Result<Option<String>, String> {
        if let Some(misfit) = self.other_form(variable) {
            return Ok(Some(misfit));
        }
        let lost = self.first_lost(variable)?;
        Ok(lost.map(|lost| format!("has the value {lost}, out of range of the model's {:?}", variable.kind())))
    }

    fn other_form(&self, variable: &Tensor) -> Option<String> {
        let (shape, wanted) = (self.shape, variable.size());
        if !shape.iter().map(|&size| size as u64).eq(wanted.iter().map(|&size| size as u64)) {
            return Some(format!("has shape {shape:?}, the model wants {wanted:?}"));
        }
        let (dtype, wanted) = (self.dtype, variable.kind());
        match kind(dtype) {
            None => Some(format!("has kind {dtype}, which is not read")),
            Some(kind) if converts(kind, wanted) => None,
            Some(_) => Some(format!("has kind {dtype}, which is not converted to the model's {wanted:?}")),
        }
    }

    /// The first number that would not survive the conversion to `variable`'s kind: a finite number
    /// that becomes infinite, or an integer that becomes another one. It fits otherwise.
    fn first_lost(&self, variable: &Tensor) -> Result<Option<String>, String> {
        let wanted = variable.kind();
        if self.source().kind == wanted {
            return Ok(None);
        }
        let mut first = None;
        self.source().pieces(|_, piece| {
            if first.is_none() {
                first = lost(piece, wanted).map_err(|error| error.to_string())?;
            }
            Ok(())
        })?;
        Ok(first)
    }

    /// Reads the tensor into a variable that it fits.
    pub(crate) fn read_into(&self, variable: &Tensor) -> Result<(), String> {
        self.source().read_into(variable)
    }

    fn source(&self) -> Source<'_> {
        Source {
            file: &self.file.file,
            start: self.file.data + self.start as u64,
            elements: self.shape.iter().product(),
            kind: kind(self.dtype).expect("a tensor of another kind fits no variable"),
        }
    }
}

/// Whether a name that a file gives is one of a file beside it.
pub(crate) fn is_in_its_folder(name: &str) -> bool {
    Path::new(name).file_name() == Some(OsStr::new(name))
}

fn lost(value: &Tensor, wanted: Kind) -> Result<Option<String>, Error> {
    let converted = value.f_to_kind(wanted)?;
    let is_float = is_float(value.kind());
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
