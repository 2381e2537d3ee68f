//! Opens a safetensors file and reads its header. Errors say in plain words what is wrong.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use safetensors::tensor::Metadata;
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use serde_json::{Map, Value};

/// The number of bytes at the start of the file that hold the length of the header.
const LENGTH: usize = size_of::<u64>();

/// The greatest length of a header; all readers of the format refuse longer ones.
const LONGEST_HEADER: u64 = 100_000_000;

/// The number of bytes that identify the kind of a file. Only these are read of a file of another
/// kind, which may be large.
const START: u64 = 512;

/// An open safetensors file, whose header has been read and checked.
pub(super) struct SafetensorsFile {
    pub(super) file: File,
    /// The offset of the tensors' data.
    pub(super) data: u64,
    pub(super) metadata: Metadata,
}

impl SafetensorsFile {
    /// The error is the reason why the file cannot be read.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let (file, start) = read_header(path).map_err(|error| error.to_string())?;
        let found = file.metadata().map_err(|error| error.to_string())?.len();
        let metadata = parse(&start, found).map_err(|error| refusal(path, &start, found, &error))?;
        Ok(Self { file, data: start.len() as u64, metadata })
    }
}

/// Reads the header with its length before it, or the first bytes of a file that has none.
fn read_header(path: &Path) -> std::io::Result<(File, Vec<u8>)> {
    let mut file = File::open(path)?;
    let mut bytes = Vec::new();
    file.by_ref().take(START).read_to_end(&mut bytes)?;
    if let Some(length) = header_length(&bytes).filter(|&length| length <= LONGEST_HEADER) {
        let end = LENGTH as u64 + length;
        file.by_ref().take(end.saturating_sub(START)).read_to_end(&mut bytes)?;
        bytes.truncate(end as usize);
    }
    Ok((file, bytes))
}

/// The tensors that the header of a file of `found` bytes describes.
fn parse(start: &[u8], found: u64) -> Result<Metadata, SafeTensorError> {
    let (length, header) = start.split_at(start.len().min(LENGTH));
    let is_whole = header_length(length) == Some(header.len() as u64);
    let Some(metadata) = is_whole.then(|| serde_json::from_slice::<Metadata>(header).ok()).flatten() else {
        // The library says what is wrong. It is not asked about a header that can be read: it adds
        // up the lengths of header and tensors, and the sum can overflow.
        return SafeTensors::read_metadata(start).map(|(_, metadata)| metadata);
    };
    match (start.len() as u64).checked_add(metadata.data_len() as u64) == Some(found) {
        true => Ok(metadata),
        false => Err(SafeTensorError::MetadataIncompleteBuffer),
    }
}

/// The length that the file gives, in bytes.
fn header_length(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk().map(|length| u64::from_le_bytes(*length))
}

/// The reason why a file is refused: what it is instead, or what is wrong with it.
fn refusal(file: &Path, bytes: &[u8], found: u64, error: &SafeTensorError) -> String {
    let (length, rest) = bytes.split_at(bytes.len().min(LENGTH));
    let length = header_length(length).unwrap_or_default();
    // A safetensors file begins with the length of its header.
    if !rest.starts_with(b"{") {
        return no_header(file, bytes);
    }
    let header = usize::try_from(length).ok().and_then(|length| rest.get(..length)).unwrap_or(rest);
    match error {
        SafeTensorError::HeaderTooLarge => {
            format!("it is not a safetensors file: its header would have {length} bytes, of at most {LONGEST_HEADER}")
        }
        SafeTensorError::InvalidHeaderLength => {
            format!("it is cut off: its header alone has {length} bytes, and the whole file {found}")
        }
        SafeTensorError::MetadataIncompleteBuffer => {
            let tensors = serde_json::from_slice::<Metadata>(header).map_or(0, |metadata| metadata.data_len());
            let told = ((LENGTH + header.len()) as u64).saturating_add(tensors as u64);
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

/// The kind of a file without a safetensors header.
fn no_header(file: &Path, bytes: &[u8]) -> String {
    let name = file.file_name().unwrap_or_default();
    let pickle = format!("torch.load({name:?})");
    // It joins the segments of a name with `|`.
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
        // Pickle's first opcode and the protocol number.
        [0x80, 2..=5, ..] => is("a PyTorch pickle archive", &pickle),
        [b'P', b'K', 3, 4, ..] => match first_entry(bytes) {
            entry if entry.ends_with(b"/data.pkl") => is("a PyTorch pickle archive (zip)", &pickle),
            // Archives of TorchScript begin like this, and those of C++, which tch writes.
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

/// The name of the first file in a zip archive.
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

    /// The error for a file with these bytes.
    fn said(bytes: &[u8]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("model.pt");
        std::fs::write(&file, bytes).unwrap();
        SafetensorsFile::open(&file).err().expect("the file is not right")
    }

    /// A file with this header and this many bytes of tensors.
    fn with_header(header: &str, data: usize) -> Vec<u8> {
        let length = (header.len() as u64).to_le_bytes();
        [length.as_slice(), header.as_bytes(), &vec![0; data]].concat()
    }

    const ONE: &str = r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;

    #[test]
    fn a_file_that_ends_too_early_or_too_late_says_where() {
        let whole = with_header(ONE, 8);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &whole).unwrap();
        assert!(SafetensorsFile::open(file.path()).is_ok());
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
        // The first bytes that torch 2.11 writes: by `torch.save` without and with zip, and by
        // `torch.jit.save`.
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
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &whole).unwrap();
        assert!(SafetensorsFile::open(file.path()).is_ok());
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
        // The greatest tensors that there are, of bytes. With the header before them, eight of them
        // have more bytes than a number has.
        let bytes = (1_u64 << 61) - 1;
        let tensor = |number: u64| {
            let (start, end) = (number * bytes, (number + 1) * bytes);
            format!(r#""{number}":{{"dtype":"U8","shape":[{bytes}],"data_offsets":[{start},{end}]}}"#)
        };
        let tensors: Vec<_> = (0..8).map(tensor).collect();
        let error = said(&with_header(&format!("{{{}}}", tensors.join(",")), 16));
        assert!(error.starts_with("it is cut off: its header describes 18446744073709551615 bytes"), "{error}");
    }

    #[test]
    fn a_kind_that_is_not_known_names_its_tensor() {
        let header = r#"{"__metadata__":{"dtype":"none"},"a":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F1","shape":[8],"data_offsets":[1,2]}}"#;
        assert_eq!(said(&with_header(header, 2)), "`b` has kind F1, which is not known here");
    }

    #[test]
    fn a_large_file_of_another_kind_is_not_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"PK\x03\x04\0\0\x08\x08").unwrap();
        // Everything after the first bytes is a hole, which takes no space on the disk.
        file.as_file().set_len(1 << 36).unwrap();
        assert_eq!(read_header(file.path()).unwrap().1.len() as u64, START);
    }
}
