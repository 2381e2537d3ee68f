//! Writes tensors to safetensors files.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::json;
use tch::Tensor;

use super::dtype::dtype;
use super::piecewise::write_elements;
use crate::torch::size_in_bytes;

/// The name of the index of several files, as Hugging Face names it.
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// The note of a file that has a part of a model.
pub(super) const PART: &str = "pipe_part";

/// Writes a safetensors file. It takes no memory for the tensors, but for one that does not lie in
/// a row.
pub(crate) fn write_tensors(file: &mut File, tensors: &[(String, Tensor)]) -> Result<(), String> {
    write_tensors_from(file, tensors, &mut |_, tensor| Ok(tensor.shallow_clone()))
}

/// Writes a file that is marked as a part of a model: `part` says which.
pub(crate) fn write_part(file: &mut File, tensors: &[(String, Tensor)], part: &str) -> Result<(), String> {
    write(file, tensors, Some(part), &mut |_, tensor| Ok(tensor.shallow_clone()))
}

/// Writes tensors of which only the shapes and kinds are known: `fetch` returns each when its turn
/// comes, in [the file's order](in_file_order).
pub(crate) fn write_tensors_from(
    file: &mut File,
    tensors: &[(String, Tensor)],
    fetch: &mut dyn FnMut(&str, &Tensor) -> Result<Tensor, String>,
) -> Result<(), String> {
    write(file, tensors, None, fetch)
}

fn write(
    file: &mut File,
    tensors: &[(String, Tensor)],
    part: Option<&str>,
    fetch: &mut dyn FnMut(&str, &Tensor) -> Result<Tensor, String>,
) -> Result<(), String> {
    let words = |error: &dyn std::fmt::Display| error.to_string();
    let sorted = in_file_order(tensors)?;
    let mut end = 0;
    let infos = sorted.iter().map(|&(dtype, name, tensor)| {
        let shape = tensor.size().into_iter().map(|size| size as usize).collect();
        let start = end;
        end += size_in_bytes(tensor);
        (name.clone(), TensorInfo { dtype, shape, data_offsets: (start, end) })
    });
    // Other readers of PyTorch's tensors ask for this note.
    let notes = [("format", "pt")].into_iter().chain(part.map(|part| (PART, part)));
    let notes = notes.map(|(name, note)| (name.to_owned(), note.to_owned()));
    let metadata = Metadata::new(Some(notes.collect()), infos.collect()).map_err(|error| words(&error))?;
    let mut header = serde_json::to_vec(&metadata).map_err(|error| words(&error))?;
    header.resize(header.len().next_multiple_of(size_of::<u64>()), b' ');
    let start = [(header.len() as u64).to_le_bytes().as_slice(), &header].concat();
    file.write_all(&start).map_err(|error| words(&error))?;
    sorted.into_iter().try_for_each(|(_, name, tensor)| write_elements(file, &fetch(name, tensor)?))
}

/// The tensors in the order in which they are written, with their kinds.
pub(crate) fn in_file_order(tensors: &[(String, Tensor)]) -> Result<Vec<(Dtype, &String, &Tensor)>, String> {
    let mut sorted = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let kind = tensor.kind();
        let dtype = dtype(kind).ok_or_else(|| format!("`{name}` is of kind {kind:?}, which is not written"))?;
        sorted.push((dtype, name, tensor));
    }
    // Large numbers first, so that each tensor is aligned.
    sorted.sort_by(|(a, name_a, _), (b, name_b, _)| b.cmp(a).then(name_a.cmp(name_b)));
    Ok(sorted)
}

/// The index of several files: for each tensor, the file that has it.
pub(crate) fn write_index(file: &mut File, files: &[(String, &Vec<(String, Tensor)>)]) -> Result<(), String> {
    let tensors = || files.iter().flat_map(|(_, tensors)| tensors.iter());
    let total: usize = tensors().map(|(_, tensor)| size_in_bytes(tensor)).sum();
    let map: BTreeMap<_, _> =
        files.iter().flat_map(|(file, tensors)| tensors.iter().map(move |(name, _)| (name, file))).collect();
    let index = json!({ "metadata": { "total_size": total }, "weight_map": map });
    writeln!(file, "{index:#}").map_err(|error| error.to_string())
}
