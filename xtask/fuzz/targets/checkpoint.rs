//! A checkpoint with any changes is restored or refused. What is refused changes nothing of the
//! training, and what is restored can go on.

#![no_main]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use pipe_fuzz::{MEMORY, folder_in_memory};
use pipe_runtime::optim::{AdamW, LossScaler};
use pipe_runtime::{Checkpoints, Devices, Trainer, pipeline};
use serde_json::{Value, json};
use tch::nn::{self, Linear};
use tch::{Device, Kind, Tensor};

#[pipeline]
struct Net {
    #[device("cpu")]
    first: Linear,
    #[device("cpu")]
    last: Linear,
}

/// The file that has the sizes of the others.
const DESCRIPTION: &str = "training.json";

/// A change of a file: `insert` takes the place of `remove` bytes at `at`, modulo its length.
#[derive(Debug, Arbitrary)]
struct Edit<'a> {
    file: u8,
    at: u16,
    remove: u8,
    insert: &'a [u8],
}

#[derive(Debug, Arbitrary)]
struct Damage<'a> {
    /// Whether the description has the sizes from before the edits.
    is_torn: bool,
    edits: Vec<Edit<'a>>,
}

struct Training {
    folder: tempfile::TempDir,
    vars: NetVars,
    trainer: Trainer<Net>,
    whole: PathBuf,
    files: BTreeMap<String, Vec<u8>>,
}

thread_local! {
    static TRAINING: std::cell::RefCell<Training> = Training::new().expect("a whole checkpoint").into();
}

impl Training {
    fn new() -> pipe_runtime::Result<Self> {
        let vars = Net::vars(&Devices::cpu(2))?;
        let linear = |path| nn::linear(path, 2, 2, Default::default());
        let net = Net { first: linear(vars.first()), last: linear(vars.last()) };
        let pipe = net.pipe(&vars).chunks(1).build()?;
        let optimizer = pipe.optimizer(AdamW::default()).build()?;
        let mut trainer = Trainer::new(pipe, optimizer)?.loss_scaling(LossScaler::default())?;
        trainer.set_value("epoch", "3");
        let folder = folder_in_memory();
        let mut this = Self { whole: PathBuf::new(), files: BTreeMap::new(), vars, trainer, folder };
        this.step()?;
        this.whole = Checkpoints::in_folder(this.folder.path()).save(&this.trainer)?;
        for entry in fs::read_dir(&this.whole).expect("it was written") {
            let path = entry.expect("it was written").path();
            let name = path.file_name().expect("a file").to_string_lossy().into_owned();
            this.files.insert(name, fs::read(path).expect("it was written"));
        }
        Ok(this)
    }

    fn step(&mut self) -> pipe_runtime::Result<()> {
        let x = Tensor::ones([1, 2], (Kind::Float, Device::Cpu));
        self.trainer.step(&x, &x, |output, y: &Tensor| output.mse_loss(y, tch::Reduction::Mean)).map(drop)
    }

    fn state(&self) -> (u64, Vec<(String, Vec<f32>)>) {
        let values = |tensor: &Tensor| Vec::try_from(tensor.view([-1])).expect("floats");
        let variables = self.vars.var_store().variables();
        let mut variables: Vec<_> = variables.iter().map(|(name, tensor)| (name.clone(), values(tensor))).collect();
        variables.sort_by(|(a, _), (b, _)| a.cmp(b));
        (self.trainer.steps(), variables)
    }

    fn read(&mut self, damage: &Damage) {
        let mut files = self.files.clone();
        for edit in &damage.edits {
            let number = usize::from(edit.file) % files.len();
            let file = files.values_mut().nth(number).expect("one of them");
            let start = usize::from(edit.at) % (file.len() + 1);
            let end = (start + usize::from(edit.remove)).min(file.len());
            file.splice(start..end, edit.insert.iter().copied());
        }
        if !damage.is_torn {
            let sizes: BTreeMap<_, _> = files.iter().map(|(name, file)| (name.clone(), file.len())).collect();
            let description = files.get_mut(DESCRIPTION).expect("a checkpoint has one");
            if let Ok(Value::Object(mut object)) = serde_json::from_slice(description) {
                for (name, size) in object.get_mut("files").and_then(Value::as_object_mut).into_iter().flatten() {
                    *size = json!(sizes.get(name));
                }
                *description = Value::Object(object).to_string().into_bytes();
            }
        }
        let folder = self.folder.path().join("damaged");
        fs::create_dir_all(&folder).expect("the folder can be written");
        for (name, file) in &files {
            fs::write(folder.join(name), file).expect("the folder can be written");
        }
        let before = self.state();
        match Checkpoints::resume_from(&folder, &mut self.trainer) {
            Ok(()) => {
                // It may fail, because numbers are not finite.
                let _ = self.step();
                Checkpoints::resume_from(&self.whole, &mut self.trainer).expect("this one is whole");
            }
            Err(error) => assert!(self.state() == before, "changed all the same: {error}"),
        }
    }
}

fuzz_target!(init: MEMORY.set_limit(64 << 20).expect("less is in use"), |damage: Damage| {
    TRAINING.with_borrow_mut(|training| training.read(&damage));
});
