//! Files of variables, as this crate and as others write them: what is read, in which kinds, under
//! which names and from how many files, and what a saved file looks like.

use pipe_runtime::{Devices, pipeline};
use tch::nn::{self, Linear, VarStore};
use tch::{Device, Kind, Tensor};

/// A model with four variables: `first.weight`, `first.bias`, `last.weight` and `last.bias`.
#[pipeline]
struct Small {
    #[device("cpu")]
    first: Linear,
    #[device("cpu")]
    last: Linear,
}

/// Creates the variables of [`Small`] with a kind for each layer. All values are 7.
fn small(first: Kind, last: Kind) -> SmallVars {
    let vars = Small::vars(&Devices::cpu(Small::STAGES)).unwrap();
    for (path, kind) in [(vars.first(), first), (vars.last(), last)] {
        for (name, shape) in [("weight", [2, 2].as_slice()), ("bias", &[2])] {
            let _ = path.add(name, Tensor::full(shape, 7, (kind, Device::Cpu)), false);
        }
    }
    vars
}

/// A tensor in a file: name, kind, shape and bytes.
type Saved<'f> = (&'f str, &'f str, &'f [usize], Vec<u8>);

/// Writes a file as Python does, including metadata and kinds that tch cannot write.
fn write(file: &std::path::Path, notes: &[(&str, &str)], tensors: &[Saved<'_>]) {
    let mut header = serde_json::Map::new();
    let notes: serde_json::Map<_, _> = notes.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect();
    header.insert("__metadata__".to_owned(), notes.into());
    let mut bytes = Vec::new();
    for (name, kind, shape, data) in tensors {
        let offsets = [bytes.len(), bytes.len() + data.len()];
        bytes.extend(data);
        let tensor = serde_json::json!({ "dtype": kind, "shape": shape, "data_offsets": offsets });
        header.insert((*name).to_owned(), tensor);
    }
    let header = serde_json::to_vec(&header).unwrap();
    let length = (header.len() as u64).to_le_bytes();
    std::fs::write(file, [length.as_slice(), &header, &bytes].concat()).unwrap();
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn doubles(values: &[f64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn integers(values: &[i64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Writes a valid file for [`small`] with floats, except for these tensors.
fn small_file(changed: Vec<Saved<'_>>) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let ones = |name, shape: &'static [usize]| (name, "F32", shape, floats(&vec![1.; shape.iter().product()]));
    let mut tensors = vec![
        ones("first.weight", &[2, 2]),
        ones("first.bias", &[2]),
        ones("last.weight", &[2, 2]),
        ones("last.bias", &[2]),
    ];
    for tensor in changed {
        tensors.retain(|(name, ..)| *name != tensor.0);
        tensors.push(tensor);
    }
    write(file.path(), &[], &tensors);
    file
}

/// Returns the error of `load` for a file that it refuses, and asserts that no variable has
/// changed.
fn refusal(vars: &SmallVars, file: &std::path::Path) -> String {
    let error = vars.load(file).unwrap_err().to_string();
    for (name, variable) in vars.var_store().variables() {
        assert_eq!(variable, Tensor::full_like(&variable, 7), "{name} after: {error}");
    }
    error
}

fn values(vars: &SmallVars, name: &str) -> Vec<f64> {
    Vec::try_from(vars.var_store().variables()[name].to_kind(Kind::Double).flatten(0, -1)).unwrap()
}

#[test]
fn kinds_that_are_not_read_are_named() {
    let _serial = pipe_tests::serial();
    let vars = small(Kind::Float, Kind::Float);
    for (kind, bytes) in [("F8_E4M3", 1), ("F8_E5M2", 1), ("F8_E8M0", 1), ("C64", 8), ("U16", 2), ("U64", 8)] {
        let tensor = |name| (name, kind, [2].as_slice(), vec![0; 2 * bytes]);
        let wanted = refusal(&vars, small_file(vec![tensor("last.bias")]).path());
        let fits = format!("does not fit the model: `last.bias` has kind {kind}, which is not read");
        assert!(wanted.ends_with(&fits), "{wanted}");
        let unwanted = refusal(&vars, small_file(vec![tensor("scale")]).path());
        assert!(unwanted.ends_with("does not fit the model: the model has no `scale`"), "{unwanted}");
    }
}

#[test]
fn integers_and_bool_do_not_become_floats_nor_the_reverse() {
    let _serial = pipe_tests::serial();
    let (of_floats, of_integers) = (small(Kind::Float, Kind::Half), small(Kind::Int64, Kind::Bool));
    for (kind, bytes) in [("I64", 8), ("I32", 4), ("I16", 2), ("I8", 1), ("U8", 1), ("BOOL", 1)] {
        let tensor = |name| (name, kind, [2].as_slice(), vec![0; 2 * bytes]);
        let said = refusal(&of_floats, small_file(vec![tensor("first.bias"), tensor("last.bias")]).path());
        for (name, wanted) in [("first.bias", "Float"), ("last.bias", "Half")] {
            let part = format!("`{name}` has kind {kind}, which is not converted to the model's {wanted}");
            assert!(said.contains(&part), "{said}");
        }
    }
    let said = refusal(&of_integers, small_file(Vec::new()).path());
    for (name, wanted) in [("first.bias", "Int64"), ("last.weight", "Bool")] {
        let part = format!("`{name}` has kind F32, which is not converted to the model's {wanted}");
        assert!(said.contains(&part), "{said}");
    }
}

#[test]
fn floats_of_any_kind_are_converted_but_stay_finite() {
    let _serial = pipe_tests::serial();
    let bias = |kind, data| small_file(vec![("first.bias", kind, &[2], data)]);
    let half = [0x00, 0x3c, 0xff, 0x7b];
    let bfloat16 = [0x80, 0x3f, 0x7f, 0x7f];

    let vars = small(Kind::Float, Kind::Float);
    for (kind, data, expected) in [
        ("F64", doubles(&[0.1, -3e38]), [0.1f32.into(), (-3e38f32).into()]),
        ("F64", doubles(&[1e-300, f64::INFINITY]), [0., f64::INFINITY]),
        ("F16", half.to_vec(), [1., 65504.]),
        ("BF16", bfloat16.to_vec(), [1., 3.3895313892515355e38]),
    ] {
        vars.load(bias(kind, data)).unwrap();
        assert_eq!(values(&vars, "first.bias"), expected, "{kind}");
        assert_eq!(vars.var_store().variables()["first.bias"].kind(), Kind::Float);
    }
    vars.load(bias("F64", doubles(&[f64::NAN, f64::NEG_INFINITY]))).unwrap();
    let found = values(&vars, "first.bias");
    assert!(found[0].is_nan() && found[1] == f64::NEG_INFINITY, "{found:?}");

    for (wanted, kind, data, value) in [
        (Kind::Float, "F64", doubles(&[1., -1e300]), "-1e300"),
        (Kind::Half, "F32", floats(&[65504., 65520.]), "65520.0"),
        (Kind::Half, "BF16", bfloat16.to_vec(), "3.3895313892515355e38"),
        (Kind::BFloat16, "F32", floats(&[f32::INFINITY, f32::MAX]), "3.4028234663852886e38"),
    ] {
        let said = refusal(&small(wanted, Kind::Float), bias(kind, data).path());
        let part = format!("model: `first.bias` has the value {value}, out of range of the model's {wanted:?}");
        assert!(said.ends_with(&part), "{said}");
    }
}

#[test]
fn integers_are_converted_but_stay_what_they_are() {
    let _serial = pipe_tests::serial();
    let file = |values: &[i64]| {
        let tensor = |name, shape: &'static [usize], values: &[i64]| (name, "I64", shape, integers(values));
        small_file(vec![tensor("first.weight", &[2, 2], &[1; 4]), tensor("first.bias", &[2], values)])
    };
    let vars = small(Kind::Int16, Kind::Float);
    vars.load(file(&[-32768, 32767])).unwrap();
    assert_eq!(values(&vars, "first.bias"), [-32768., 32767.]);
    for (kind, value) in [(Kind::Int16, 32768), (Kind::Uint8, -1), (Kind::Int, i64::MIN)] {
        let said = refusal(&small(kind, Kind::Float), file(&[0, value]).path());
        let part = format!("model: `first.bias` has the value {value}, out of range of the model's {kind:?}");
        assert!(said.ends_with(&part), "{said}");
    }
}

#[test]
fn a_tied_weight_is_found_under_the_name_that_python_keeps() {
    let _serial = pipe_tests::serial();
    let file = tempfile::NamedTempFile::new().unwrap();
    let bias = |name| (name, "F32", [2].as_slice(), floats(&[1., 2.]));
    let weight = |name, values: [f32; 4]| (name, "F32", [2, 2].as_slice(), floats(&values));

    // The weights are tied in Python, but here they are two variables.
    let tied = [("format", "pt"), ("last.weight", "first.weight")];
    let one_weight = [bias("first.bias"), bias("last.bias"), weight("first.weight", [1., 2., 3., 4.])];
    write(file.path(), &tied, &one_weight);
    let vars = small(Kind::Float, Kind::Float);
    vars.load(file.path()).unwrap();
    for name in ["first.weight", "last.weight"] {
        assert_eq!(values(&vars, name), [1., 2., 3., 4.], "{name}");
    }

    // This model does not have the name under which Python keeps the weight.
    let kept = weight("decoder.weight", [5., 6., 7., 8.]);
    let decoder = [("last.weight", "decoder.weight"), ("first.weight", "decoder.weight")];
    write(file.path(), &decoder, &[bias("first.bias"), bias("last.bias"), kept.clone()]);
    vars.load(file.path()).unwrap();
    assert_eq!(values(&vars, "last.weight"), [5., 6., 7., 8.]);

    // A name that is in the file is not looked up in the notes.
    write(file.path(), &tied, &[one_weight.as_slice(), &[weight("last.weight", [0.; 4])]].concat());
    vars.load(file.path()).unwrap();
    assert_eq!(values(&vars, "last.weight"), [0.; 4]);

    let vars = small(Kind::Float, Kind::Float);
    write(file.path(), &[("last.weight", "first.bias")], &one_weight);
    let said = refusal(&vars, file.path());
    assert!(said.contains("`last.weight` (saved as `first.bias`) has shape [2], the model wants [2, 2]"), "{said}");
    write(file.path(), &[("last.weight", "nothing")], &[one_weight.as_slice(), &[kept]].concat());
    let said = refusal(&vars, file.path());
    assert!(said.ends_with("model: `last.weight` is missing; the model has no `decoder.weight`"), "{said}");
}

#[test]
fn files_of_another_kind_are_told_in_words() {
    let _serial = pipe_tests::serial();
    let folder = tempfile::tempdir().unwrap();
    let vars = small(Kind::Float, Kind::Float);
    let said = |name: &str, bytes: &[u8]| {
        std::fs::write(folder.path().join(name), bytes).unwrap();
        let said = refusal(&vars, &folder.path().join(name));
        let (_, reason) = said.split_once(": it is ").unwrap_or_else(|| panic!("{said}"));
        reason.to_owned()
    };
    assert_eq!(said("empty.safetensors", b""), "empty");
    // The beginning of a file of `torch.save` before PyTorch 1.6.
    let pickle = said("old.pt", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.");
    assert!(pickle.starts_with("a PyTorch pickle archive"), "{pickle}");
    assert!(
        pickle.contains("`safetensors.torch.save_file(torch.load(\"old.pt\"), \"model.safetensors\")`"),
        "{pickle}"
    );
    assert_eq!(said("text.safetensors", b"some other text"), "not a safetensors file: it has no header");
    let whole = std::fs::read(small_file(Vec::new()).path()).unwrap();
    let cut = said("cut.safetensors", &whole[..whole.len() - 1]);
    assert_eq!(cut, format!("cut off: its header describes {} bytes, and it has {}", whole.len(), whole.len() - 1));

    let store = VarStore::new(Device::Cpu);
    let _layer = nn::linear(store.root() / "layer", 2, 2, nn::LinearConfig::default());
    let file = folder.path().join("tch.pt");
    store.save(&file).unwrap();
    let archive = refusal(&vars, &file);
    assert!(archive.contains("it is a TorchScript archive, and not safetensors"), "{archive}");
}

#[test]
fn a_file_is_safetensors_whatever_it_is_called() {
    let _serial = pipe_tests::serial();
    let folder = tempfile::tempdir().unwrap();
    for name in ["model.pt", "model.bin", "model"] {
        let file = folder.path().join(name);
        small(Kind::Float, Kind::Double).save(&file).unwrap();
        small(Kind::Double, Kind::Float).load(&file).unwrap();
    }
}

/// Writes the tensors of a valid file of [`small`] as two files with an index. All values are 1.
fn sharded(folder: &std::path::Path, index: impl Fn(&str) -> String) {
    let ones = |name, shape: &'static [usize]| (name, "F32", shape, floats(&vec![1.; shape.iter().product()]));
    let first = [ones("first.weight", &[2, 2]), ones("last.bias", &[2])];
    let second = [ones("first.bias", &[2]), ones("last.weight", &[2, 2])];
    for (number, tensors) in [first, second].iter().enumerate() {
        write(&folder.join(shard(number + 1)), &[("format", "pt")], tensors);
    }
    let file_of = |name: &str| if ["first.weight", "last.bias"].contains(&name) { shard(1) } else { shard(2) };
    let names = ["first.weight", "first.bias", "last.weight", "last.bias"];
    let map: serde_json::Map<_, _> = names.iter().map(|name| ((*name).to_owned(), file_of(name).into())).collect();
    let text = serde_json::json!({ "metadata": { "total_size": 48 }, "weight_map": map }).to_string();
    std::fs::write(folder.join("model.safetensors.index.json"), index(&text)).unwrap();
}

fn shard(number: usize) -> String {
    format!("model-0000{number}-of-00002.safetensors")
}

#[test]
fn several_files_with_an_index_are_read_by_the_index_or_by_the_folder() {
    let _serial = pipe_tests::serial();
    let folder = tempfile::tempdir().unwrap();
    sharded(folder.path(), str::to_owned);
    for path in [folder.path().to_path_buf(), folder.path().join("model.safetensors.index.json")] {
        let vars = small(Kind::Float, Kind::Double);
        vars.load(path).unwrap();
        for name in ["first.weight", "first.bias", "last.weight", "last.bias"] {
            assert!(values(&vars, name).iter().all(|&value| value == 1.), "{name}");
        }
    }
}

#[test]
fn an_index_that_is_wrong_is_told_in_words() {
    let _serial = pipe_tests::serial();
    let vars = small(Kind::Float, Kind::Float);
    let said = |index: &dyn Fn(&str) -> String| {
        let folder = tempfile::tempdir().unwrap();
        sharded(folder.path(), index);
        refusal(&vars, folder.path()).split_once(": ").unwrap().1.to_owned()
    };
    assert_eq!(said(&|text| text.replace("weight_map", "map")), "it is not an index: it has no `weight_map`");
    assert!(said(&|_| "{".to_owned()).starts_with("it is not an index: EOF while parsing"));
    assert_eq!(
        said(&|text| text.replace("model-00001", "../model-00001")),
        "the index names the file `../model-00001-of-00002.safetensors`, which is not one of its own folder"
    );
    assert_eq!(
        said(&|text| text.replace("model-00001", "model-00003")),
        "`model-00003-of-00002.safetensors`: No such file or directory (os error 2)"
    );
    assert_eq!(
        said(&|text| text.replace("first.bias", "first.scale")),
        "the index says that `first.scale` is in `model-00002-of-00002.safetensors`, but it is not"
    );
    let folder = tempfile::tempdir().unwrap();
    let nothing = refusal(&vars, folder.path());
    assert!(
        nothing.ends_with(": the folder has neither `model.safetensors.index.json` nor `model.safetensors`"),
        "{nothing}"
    );
}

#[test]
fn tensors_are_renamed_on_the_way_in() {
    let _serial = pipe_tests::serial();
    let file = tempfile::NamedTempFile::new().unwrap();
    let ones = |name, shape: &'static [usize]| (name, "F32", shape, floats(&vec![1.; shape.iter().product()]));
    let tensors = [
        ones("module.encoder.weight", &[2, 2]),
        ones("module.encoder.bias", &[2]),
        ones("module.last.weight", &[2, 2]),
        ones("module.last.bias", &[2]),
        ones("module.steps", &[1]),
    ];
    write(file.path(), &[("module.encoder.scale", "module.last.bias")], &tensors);
    let vars = small(Kind::Float, Kind::Float);
    let loader = || vars.loader(file.path()).rename_start("module", "").rename_start("encoder", "first");
    let error = loader().load().unwrap_err().to_string();
    assert!(error.ends_with("does not fit the model: the model has no `steps`"), "{error}");
    let report = loader().rename(|name| (name != "steps").then(|| name.to_owned())).load().unwrap();
    assert_eq!(report.loaded, ["first.bias", "first.weight", "last.bias", "last.weight"]);
    assert!(!report.is_partial());
    assert_eq!(values(&vars, "first.weight"), [1.; 4]);
    let steps = [("steps", "last.bias"), ("last.bias", "steps")];
    let error = loader().rename_pairs(steps).rename_pairs([("last.weigt", "x")]).load().unwrap_err().to_string();
    assert!(error.ends_with(" has no `last.weigt` to rename: did you mean `last.weight`?"), "{error}");
    let error = loader().rename_pairs(steps).load().unwrap_err().to_string();
    assert!(error.contains("`last.bias` (saved as `module.steps`) has shape"), "{error}");
    let whole = [("module.encoder.weight", "first.weight"), ("module.encoder.bias", "first.bias")];
    let report = vars.loader(file.path()).rename_pairs(whole).partial().load().unwrap();
    assert_eq!(report.loaded, ["first.bias", "first.weight"]);
    let error = loader().rename(|_| Some("first.bias".into())).load().unwrap_err().to_string();
    assert!(error.contains("are both renamed to `first.bias`"), "{error}");
}

#[test]
fn a_partial_load_says_what_it_left_out() {
    let _serial = pipe_tests::serial();
    let vars = small(Kind::Float, Kind::Float);
    let file = tempfile::NamedTempFile::new().unwrap();
    let tensors = [
        ("first.weight", "F32", [2, 2].as_slice(), floats(&[1.; 4])),
        ("last.weight", "F32", &[4], floats(&[1.; 4])),
        ("last.bias", "F64", &[2], doubles(&[1e300, 0.])),
        ("head.weight", "F32", &[1], floats(&[1.])),
    ];
    write(file.path(), &[], &tensors);
    let report = vars.loader(file.path()).partial().load().unwrap();
    assert_eq!(
        report.to_string(),
        "1 variables read; `first.bias` is missing; \
         `last.bias` has the value 1e300, out of range of the model's Float; \
         `last.weight` has shape [4], the model wants [2, 2]; the model has no `head.weight`"
    );
    assert_eq!((values(&vars, "first.weight"), values(&vars, "last.weight")), (vec![1.; 4], vec![7.; 4]));

    let other = small_file(vec![]);
    let error = vars.loader(other.path()).rename_start("first", "a").rename_start("last", "b").partial().load();
    assert!(
        error.unwrap_err().to_string().starts_with(&format!("nothing in {} is in the model: ", other.path().display()))
    );
}

/// Variables that take several pieces, that are not in a row, and that are converted on the way.
#[test]
fn large_transposed_and_converted_variables_come_back_whole() {
    let _serial = pipe_tests::serial();
    let rows = 3_000_001;
    let make = |kind: Kind| {
        let vars = Small::vars(&Devices::cpu(Small::STAGES)).unwrap();
        let _ = vars.first().add("large", Tensor::zeros([rows], (kind, Device::Cpu)), false);
        let square = vars.last().add("square", Tensor::zeros([30, 40], (Kind::Double, Device::Cpu)), false);
        square.shallow_clone().set_data(&Tensor::zeros([40, 30], (Kind::Double, Device::Cpu)).tr());
        let _ = vars.last().add("flags", Tensor::zeros([9], (Kind::Bool, Device::Cpu)), false);
        vars
    };
    let variable = |vars: &SmallVars, name: &str| vars.var_store().variables()[name].shallow_clone();
    let vars = make(Kind::Double);
    let counted = Tensor::arange(rows, (Kind::Double, Device::Cpu));
    let table = Tensor::arange(1200, (Kind::Double, Device::Cpu)).view([30, 40]);
    let flags = Tensor::from_slice(&[true, false, true, true, false, true, false, false, true]);
    for (name, value) in [("first.large", &counted), ("last.square", &table), ("last.flags", &flags)] {
        variable(&vars, name).copy_(value);
    }
    assert!(!variable(&vars, "last.square").is_contiguous());

    let file = tempfile::NamedTempFile::new().unwrap();
    vars.save(file.path()).unwrap();
    for kind in [Kind::Double, Kind::Float] {
        let other = make(kind);
        other.load(file.path()).unwrap();
        assert_eq!(variable(&other, "first.large"), counted.to_kind(kind));
        assert_eq!(variable(&other, "last.square"), table);
        assert!(!variable(&other, "last.square").is_contiguous());
        assert_eq!(variable(&other, "last.flags"), flags);
    }
    // The last of the numbers does not fit, so none is read.
    let _ = variable(&vars, "first.large").get(rows - 1).fill_(1e300);
    vars.save(file.path()).unwrap();
    let other = make(Kind::Float);
    assert!(other.load(file.path()).unwrap_err().to_string().contains("has the value 1e300"));
    assert_eq!(variable(&other, "first.large").abs().max().double_value(&[]), 0.);
}

/// What other tools ask of a file: the note that it is PyTorch's, and tensors at multiples of their
/// numbers' size.
#[test]
fn a_saved_file_is_noted_as_pytorchs_and_aligned() {
    let _serial = pipe_tests::serial();
    let vars = Small::vars(&Devices::cpu(Small::STAGES)).unwrap();
    let _ = vars.first().add("flags", Tensor::ones([3], (Kind::Bool, Device::Cpu)), false);
    let _ = vars.first().add("numbers", Tensor::ones([3], (Kind::Double, Device::Cpu)), false);
    let _ = vars.last().add("halves", Tensor::ones([5], (Kind::Half, Device::Cpu)), false);
    let file = tempfile::NamedTempFile::new().unwrap();
    vars.save(file.path()).unwrap();
    let bytes = std::fs::read(file.path()).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    assert_eq!(length % 8, 0);
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    assert_eq!(header["__metadata__"]["format"], "pt");
    let start = |name: &str| header[name]["data_offsets"][0].as_u64().unwrap();
    assert_eq!((start("first.numbers"), start("last.halves"), start("first.flags")), (0, 24, 34));
}

#[test]
fn a_saved_file_keeps_the_permissions_and_the_link_of_the_old_one() {
    use std::os::unix::fs::PermissionsExt;
    let _serial = pipe_tests::serial();
    let folder = tempfile::tempdir().unwrap();
    let (file, link) = (folder.path().join("model.safetensors"), folder.path().join("latest"));
    let vars = small(Kind::Float, Kind::Float);
    vars.save(&file).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    vars.save(&link).unwrap();
    assert!(link.is_symlink());
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
    vars.load(&link).unwrap();
    let error = vars.save(folder.path()).unwrap_err().to_string();
    assert!(error.ends_with(": it is not a file"), "{error}");
}
