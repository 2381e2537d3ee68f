//! Any safetensors file, and any index of several, is read or refused. What is refused changes no
//! variable, and an index names files of its own folder alone.

#![no_main]

use std::fs;
use std::path::PathBuf;

use libfuzzer_sys::fuzz_target;
use pipe_fuzz::{MEMORY, folder_in_memory};
use pipe_runtime::{Devices, pipeline};
use tch::nn::Linear;
use tch::{Device, Kind, Tensor};

#[pipeline]
struct Net {
    #[device("cpu")]
    first: Linear,
    #[device("cpu")]
    last: Linear,
}

/// What variables are before each file is read.
const BEFORE: f64 = 3.;

/// What the file beside the index's folder has.
const OUTSIDE: f64 = 7.;

struct Reader {
    folder: tempfile::TempDir,
    vars: NetVars,
    variables: Vec<Tensor>,
}

thread_local! {
    static READER: Reader = Reader::new();
}

impl Reader {
    fn new() -> Self {
        let vars = Net::vars(&Devices::cpu(2)).expect("there are CPUs");
        let of = |size: &[i64], kind| Tensor::zeros(size, (kind, Device::Cpu));
        let variables = vec![
            vars.first().add("weight", of(&[2, 2], Kind::Float), true),
            vars.first().add("counts", of(&[3], Kind::Int64), false),
            vars.first().add("flags", of(&[3], Kind::Bool), false),
            vars.last().add("halves", of(&[2], Kind::Half), true),
            vars.last().add("small", of(&[], Kind::Uint8), false),
        ];
        let reader = Self { folder: folder_in_memory(), vars, variables };
        fs::create_dir(reader.inside()).expect("the folder is empty");
        // Two files for an index to name, and one that it must not reach.
        for (value, file) in [(1., "inside/a"), (2., "inside/b"), (OUTSIDE, "outside")] {
            reader.fill(value);
            let file = reader.folder.path().join(file);
            reader.vars.save(file.with_extension("safetensors")).expect("the folder can be written");
        }
        reader
    }

    fn inside(&self) -> PathBuf {
        self.folder.path().join("inside")
    }

    fn fill(&self, value: f64) {
        tch::no_grad(|| self.variables.iter().for_each(|variable| drop(variable.shallow_clone().fill_(value))));
    }

    fn is_filled(&self, variable: &Tensor, value: f64) -> bool {
        variable.equal(&variable.full_like(value))
    }

    fn read(&self, name: &str, bytes: &[u8]) {
        let path = self.inside().join(name);
        fs::write(&path, bytes).expect("the folder can be written");
        for partial in [false, true] {
            self.fill(BEFORE);
            let loader = self.vars.loader(&path);
            let loader = if partial { loader.partial() } else { loader };
            match loader.load() {
                Ok(report) => {
                    let is_outside = self.is_filled(&self.variables[0], OUTSIDE);
                    assert!(!(is_outside && name.ends_with(".json")), "outside of the folder: {report}");
                }
                // The bytes of a file are those that its header describes, so none ends too early.
                Err(error) => {
                    let is_unchanged = |variable| self.is_filled(variable, BEFORE);
                    assert!(self.variables.iter().all(is_unchanged), "changed all the same: {error}");
                }
            }
        }
        fs::remove_file(path).expect("it was written");
    }
}

// An index begins with `i`, which is not in it.
fuzz_target!(init: MEMORY.set_limit(64 << 20).expect("less is in use"), |bytes: &[u8]| {
    READER.with(|reader| match bytes {
        [b'i', text @ ..] => reader.read("model.safetensors.index.json", text),
        bytes => reader.read("model.safetensors", bytes),
    });
});
