//! Files of tensors: safetensors, one or several with an index. They are read and written piece by
//! piece, so that neither needs the model's memory a second time.
//!
//! Errors are reasons in words: the caller knows what the file is for.

mod dtype;
mod piecewise;
mod replace;
mod safetensors;
mod tensor_files;
mod write;

pub(crate) use replace::{replace, sync_folder};
pub(crate) use tensor_files::{SavedTensor, TensorFiles, is_in_its_folder};
pub(crate) use write::{in_file_order, write_index, write_part, write_tensors, write_tensors_from};
