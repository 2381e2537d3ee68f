//! Reads safetensors files: the tensors, and the names of tied weights that a file leaves out.
//! Explains in plain words why a file cannot be read.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use serde_json::{Map, Value};

/// The size in bytes of the header length, which is the first field of the file.
const LENGTH: usize = size_of::<u64>();

/// All readers of the format refuse longer headers.
const LONGEST_HEADER: u64 = 100_000_000;

/// The number of bytes that suffice to recognize a file format. No more is read of a file that is
/// not safetensors and may be large.
const START: u64 = 512;

pub struct Saved {
    bytes: Vec<u8>,
    /// The offset at which the tensors' data begins.
    data: usize,
    tensors: BTreeMap<String, TensorInfo>,
    metadata: Metadata,
}

/// A tensor of the file, not converted.
pub struct SavedTensor<'f> {
    /// The tensor's name in the file.
    pub name: &'f str,
    pub dtype: Dtype,
    pub shape: &'f [usize],
    pub data: &'f [u8],
}

impl Saved {
    /// Reads the whole file.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or is not valid safetensors. The message says what it is instead,
    /// or what is wrong with it.
    pub fn read(file: &Path) -> Result<Self, String> {
        let bytes = read(file).map_err(|error| error.to_string())?;
        let (header, metadata) = SafeTensors::read_metadata(&bytes).map_err(|error| refusal(file, &bytes, &error))?;
        let tensors = metadata.tensors().into_iter().map(|(name, info)| (name, info.clone())).collect();
        Ok(Self { data: LENGTH + header, bytes, tensors, metadata })
    }

    /// The names of the tensors, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The tensor of this name or, if the file leaves the name out, the tensor to which it is tied.
    ///
    /// For tied weights, Python's `safetensors.torch.save_model` keeps one tensor, and notes `name:
    /// kept name` for each other one in the metadata. Other entries of the metadata name no tensor.
    pub fn tensor(&self, name: &str) -> Option<SavedTensor<'_>> {
        let notes = || self.metadata.metadata().as_ref();
        self.kept(name).or_else(|| self.kept(notes()?.get(name)?))
    }

    fn kept(&self, name: &str) -> Option<SavedTensor<'_>> {
        let (name, info) = self.tensors.get_key_value(name)?;
        let (from, to) = info.data_offsets;
        let data = self.bytes.get(self.data + from..self.data + to)?;
        Some(SavedTensor { name, dtype: info.dtype, shape: &info.shape, data })
    }
}

/// Reads the file's bytes; only the first [`START`] of a file that cannot be safetensors.
fn read(file: &Path) -> std::io::Result<Vec<u8>> {
    let mut source = File::open(file)?;
    let mut bytes = Vec::new();
    source.by_ref().take(START).read_to_end(&mut bytes)?;
    if header_length(&bytes).is_none_or(|length| length <= LONGEST_HEADER) {
        source.read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

/// The header's length in bytes, as the file gives it.
fn header_length(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk().map(|length| u64::from_le_bytes(*length))
}

/// Explains why a file is refused: what it is instead, or what is wrong with it.
fn refusal(file: &Path, bytes: &[u8], error: &SafeTensorError) -> String {
    let (length, rest) = bytes.split_at(bytes.len().min(LENGTH));
    let length = header_length(length).unwrap_or_default();
    // A safetensors file begins with the length of its header.
    if !rest.starts_with(b"{") {
        return no_header(file, bytes);
    }
    let header = usize::try_from(length).ok().and_then(|length| rest.get(..length)).unwrap_or(rest);
    let found = bytes.len();
    match error {
        SafeTensorError::HeaderTooLarge => {
            format!("it is not a safetensors file: its header would have {length} bytes, of at most {LONGEST_HEADER}")
        }
        SafeTensorError::InvalidHeaderLength => {
            format!("it is cut off: its header alone has {length} bytes, and the whole file {found}")
        }
        SafeTensorError::MetadataIncompleteBuffer => {
            let tensors = serde_json::from_slice::<Metadata>(header).map_or(0, |metadata| metadata.data_len());
            let told = (LENGTH + header.len()).saturating_add(tensors);
            match told > found {
                true => format!("it is cut off: its header describes {told} bytes, and it has {found}"),
                false => format!("it is damaged: it has {found} bytes, and its header describes {told}"),
            }
        }
        SafeTensorError::InvalidHeaderDeserialization(_) => match unknown_kind(header) {
            Some((name, kind)) => format!("`{name}` has kind {kind}, which is not known here"),
            None => format!("it is not a safetensors file: {error}"),
        },
        _ => format!("it is not a valid safetensors file: {error}"),
    }
}

/// Explains what a file without a safetensors header is.
fn no_header(file: &Path, bytes: &[u8]) -> String {
    let name = file.file_name().unwrap_or_default();
    let pickle = format!("torch.load({name:?})");
    // A TorchScript archive that tch saved joins the parts of a name by `|`.
    let script = format!(
        "{{name.replace(\"|\", \".\"): value for name, value in torch.jit.load({name:?}).state_dict().items()}}"
    );
    let is = |what: &str, loaded: &str| {
        format!(
            "it is {what}, and not safetensors: in Python, \
             `safetensors.torch.save_file({loaded}, \"model.safetensors\")` converts it"
        )
    };
    match bytes {
        [] => "it is empty".to_owned(),
        // Pickle's first opcode, then the protocol number.
        [0x80, 2..=5, ..] => is("a PyTorch pickle archive", &pickle),
        [b'P', b'K', 3, 4, ..] => match first_entry(bytes) {
            entry if entry.ends_with(b"/data.pkl") => is("a PyTorch pickle archive (zip)", &pickle),
            // TorchScript archives begin with this entry, and so do those that C++ (and so tch)
            // writes.
            entry if entry.ends_with(b"/data/0") => {
                let tch = "tch's own `VarStore::save` writes one unless the name ends in `.safetensors`";
                format!("{}; {tch}", is("a TorchScript archive", &script))
            }
            _ => "it is a zip archive, and not safetensors".to_owned(),
        },
        _ if bytes.starts_with(b"version https://git-lfs.") => {
            "it is Git LFS's pointer to the file, and not the file: `git lfs pull` fetches it".to_owned()
        }
        _ => "it is not a safetensors file: it has no header".to_owned(),
    }
}

/// The name of a zip archive's first file.
fn first_entry(bytes: &[u8]) -> &[u8] {
    let name = bytes.get(26..28).map(|length| usize::from(u16::from_le_bytes([length[0], length[1]])));
    name.and_then(|length| bytes.get(30..30 + length)).unwrap_or_default()
}

/// The first tensor with a kind that the safetensors library does not know, and that kind.
fn unknown_kind(header: &[u8]) -> Option<(String, String)> {
    let tensors: Map<String, Value> = serde_json::from_slice(header).ok()?;
    let unknown = |(name, tensor): (String, Value)| {
        let kind = tensor.get("dtype").filter(|_| name != "__metadata__")?.as_str()?.to_owned();
        serde_json::from_value::<Dtype>(kind.as_str().into()).is_err().then_some((name, kind))
    };
    tensors.into_iter().find_map(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The message for a file of these bytes.
    fn said(bytes: &[u8]) -> String {
        let error = SafeTensors::read_metadata(bytes).expect_err("the file is not right");
        refusal(Path::new("folder/model.pt"), bytes, &error)
    }

    /// A file with this header and `data` bytes of tensors.
    fn with_header(header: &str, data: usize) -> Vec<u8> {
        let length = (header.len() as u64).to_le_bytes();
        [length.as_slice(), header.as_bytes(), &vec![0; data]].concat()
    }

    const ONE: &str = r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;

    #[test]
    fn a_file_that_ends_too_early_or_too_late_says_where() {
        let whole = with_header(ONE, 8);
        assert!(SafeTensors::read_metadata(&whole).is_ok());
        assert_eq!(said(&[]), "it is empty");
        assert_eq!(said(&whole[..5]), "it is not a safetensors file: it has no header");
        assert_eq!(said(&whole[..8]), "it is not a safetensors file: it has no header");
        assert_eq!(said(&whole[..20]), "it is cut off: its header alone has 54 bytes, and the whole file 20");
        assert_eq!(said(&whole[..69]), "it is cut off: its header describes 70 bytes, and it has 69");
        assert_eq!(said(&with_header(ONE, 9)), "it is damaged: it has 71 bytes, and its header describes 70");
    }

    #[test]
    fn archives_of_pytorch_are_known_by_their_first_bytes() {
        let is = |what, loaded| {
            format!(
                "it is {what}, and not safetensors: in Python, \
                 `safetensors.torch.save_file({loaded}, \"model.safetensors\")` converts it"
            )
        };
        let load = "torch.load(\"model.pt\")";
        // As torch 2.11 writes them: `torch.save` without and with zip, and `torch.jit.save`.
        let pickle = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}q\x00(X\x10";
        assert_eq!(said(pickle), is("a PyTorch pickle archive", load));
        let zip = |name: &str| {
            let length = (name.len() as u16).to_le_bytes();
            [b"PK\x03\x04\0\0\x08\x08".as_slice(), &[0; 18], &length, b"\x16\0", name.as_bytes(), b"FB\x12\0ZZZ"]
                .concat()
        };
        assert_eq!(said(&zip("archive/data.pkl")), is("a PyTorch pickle archive (zip)", load));
        let script =
            "{name.replace(\"|\", \".\"): value for name, value in torch.jit.load(\"model.pt\").state_dict().items()}";
        let tch = "tch's own `VarStore::save` writes one unless the name ends in `.safetensors`";
        assert_eq!(said(&zip("model/data/0")), format!("{}; {tch}", is("a TorchScript archive", script)));
        assert_eq!(said(&zip("a.npy")), "it is a zip archive, and not safetensors");
        assert_eq!(said(b"PK\x03\x04\0\0\x08\x08"), "it is a zip archive, and not safetensors");
    }

    #[test]
    fn a_header_that_only_begins_as_a_pickle_is_one() {
        let header = format!("{ONE:<640}");
        let whole = with_header(&header, 8);
        assert_eq!(whole[..2], [0x80, 2]);
        assert!(SafeTensors::read_metadata(&whole).is_ok());
        assert!(said(&whole[..640]).starts_with("it is cut off"));
    }

    #[test]
    fn other_files_are_not_safetensors() {
        assert_eq!(said(b"# some text of no kind"), "it is not a safetensors file: it has no header");
        let pointer = said(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n");
        assert!(pointer.starts_with("it is Git LFS's pointer"), "{pointer}");
        let said_of = |header| said(&with_header(header, 0));
        assert!(said_of("{\"w\":").starts_with("it is not a safetensors file: invalid JSON in header: EOF"));
        let large = [&(LONGEST_HEADER + 1).to_le_bytes(), ONE.as_bytes()].concat();
        assert!(said(&large).starts_with("it is not a safetensors file: its header would have 100000001 bytes"));
    }

    #[test]
    fn a_header_that_promises_more_than_there_is_is_refused() {
        let tensor = |shape: &str, end: u64| {
            said(&with_header(&format!(r#"{{"w":{{"dtype":"F32","shape":{shape},"data_offsets":[0,{end}]}}}}"#), 8))
        };
        let invalid = "it is not a valid safetensors file: ";
        assert_eq!(
            tensor("[4611686018427387903]", 8),
            format!("{invalid}overflow computing buffer size from shape and/or element type")
        );
        assert_eq!(tensor("[1099511627776]", 8), format!("{invalid}invalid shape, data type, or offset for tensor"));
        assert!(tensor("[1099511627776]", 4 << 40).starts_with("it is cut off: its header describes 4398046511"));
    }

    #[test]
    fn a_kind_that_is_not_known_names_its_tensor() {
        let header = r#"{"__metadata__":{"dtype":"none"},"a":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F1","shape":[8],"data_offsets":[1,2]}}"#;
        assert_eq!(said(&with_header(header, 2)), "`b` has kind F1, which is not known here");
    }

    #[test]
    fn a_large_file_of_another_kind_is_not_read() {
        let folder = std::env::temp_dir().join(format!("pipe-saved-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("large.pt");
        std::fs::write(&file, b"PK\x03\x04\0\0\x08\x08").unwrap();
        // All but the first bytes is a hole, which uses no disk space.
        File::options().write(true).open(&file).unwrap().set_len(1 << 36).unwrap();
        assert_eq!(read(&file).unwrap().len() as u64, START);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
