//! The state of a training: what a checkpoint holds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::Path;

use serde_json::{Value, json};
use tch::Tensor;

use super::optimizer::Optimizer;
use super::trainer::Trainer;
use crate::error::{Error, Result};
use crate::files::{TensorFiles, is_in_its_folder, sync_folder, write_index, write_tensors};
use crate::stages::Pipeline;
use crate::torch::{Variable, is_elsewhere, random_state, set_random_state};

/// The file that describes the others. It is written last.
pub(super) const DESCRIPTION: &str = "training.json";

const FORMAT: &str = "pipe-runtime checkpoint";

/// The version that is written. Older ones are read.
const VERSION: u64 = 1;

/// The greatest count in a checkpoint. No training makes as many steps, and what adds to a count
/// has room.
const MOST: u64 = 1 << 53;

/// The tensors of one stage, with their names.
type Shard = Vec<(String, Tensor)>;

/// Everything that a training needs to go on.
pub(super) struct Snapshot {
    /// By stage, the variables. Files of their own, which other tools read.
    model: Vec<Shard>,
    /// By stage, the optimizer's tensors; also the state of the random number generator.
    optimizer: Vec<Shard>,
    description: Value,
}

impl Snapshot {
    /// The present state. The tensors are handles on it. An error is one of all processes.
    pub(super) fn of<M: Pipeline>(trainer: &Trainer<M>) -> Result<Self> {
        let Trainer { pipe, optimizer, scaler, accumulated, steps, values, .. } = trainer;
        let built = pipe.built();
        let own = || {
            if *accumulated > 0 {
                return Err(Error::Setting(format!(
                    "the gradients of {accumulated} steps wait for an update, and a checkpoint holds no gradients: save after a step that updates"
                )));
            }
            optimizer.check_whole()?;
            let own = built.state.list().into_iter().filter(|variable| built.is_here(variable.stage));
            let own = own.map(|Variable { name, tensor, stage }| Ok((stage, name, tensor.f_detach()?)));
            Ok((own.collect::<Result<_>>()?, random_state()?))
        };
        let (own, random) = own().map_or_else(|error| (Err(error), None), |(own, random)| (Ok(own), Some(random)));
        let by_stage = |tensors: Vec<(usize, String, Tensor)>| {
            let mut shards = built.stages.iter().map(|_| Shard::new()).collect::<Vec<_>>();
            for (stage, name, tensor) in tensors {
                shards[stage].push((name, tensor));
            }
            shards
        };
        let model = by_stage(built.collect("a save of a checkpoint", own)?);
        let collected = built.collect("a save of an optimizer", Ok(optimizer.tensors()))?;
        let kept: BTreeSet<String> = collected.iter().map(|(_, name, _)| name.clone()).collect();
        let mut state = by_stage(collected);
        state[0].extend(random.map(|random| (RANDOM.to_owned(), random)));
        let description = json!({
            "format": FORMAT,
            "version": VERSION,
            "steps": steps,
            "updates": optimizer.updates(),
            "parameters": optimizer.describe(&kept),
            // As texts, which keep every bit.
            "loss_scale": scaler.map(|scaler| {
                json!({ "scale": scaler.scale().to_string(), "updates_since_change": scaler.updates_since_change() })
            }),
            "values": values,
        });
        Ok(Self { model, optimizer: state, description })
    }

    /// Copies all tensors into the host's memory: into that of `before` if it has the same ones.
    pub(super) fn copied(self, before: Option<Self>) -> Result<Self> {
        let _no_grad = tch::no_grad_guard();
        let (old_model, old_state) = before.map_or_else(Default::default, |old| (old.model, old.optimizer));
        Ok(Self {
            model: copied(self.model, old_model)?,
            optimizer: copied(self.optimizer, old_state)?,
            description: self.description,
        })
    }

    /// Writes everything into a new folder, and that to the disk.
    pub(super) fn write(&self, folder: &Path) -> Result<(), String> {
        fs::create_dir(folder).map_err(|error| error.to_string())?;
        let mut sizes = BTreeMap::new();
        for (kind, shards) in [("model", &self.model), ("optimizer", &self.optimizer)] {
            let filled: Vec<_> = shards.iter().filter(|shard| !shard.is_empty()).collect();
            let name = |number: usize| format!("{kind}-{:05}-of-{:05}.safetensors", number + 1, filled.len());
            let files: Vec<_> = filled.iter().enumerate().map(|(number, shard)| (name(number), *shard)).collect();
            for (name, shard) in &files {
                sizes.insert(name.clone(), write_file(&folder.join(name), |file| write_tensors(file, shard))?);
            }
            let name = index_of(kind);
            sizes.insert(name.clone(), write_file(&folder.join(&name), |file| write_index(file, &files))?);
        }
        let mut description = self.description.clone();
        description["files"] = json!(sizes);
        let text = format!("{description:#}\n");
        write_file(&folder.join(DESCRIPTION), |file| {
            std::io::Write::write_all(file, text.as_bytes()).map_err(|error| error.to_string())
        })?;
        sync_folder(folder).map_err(|error| error.to_string())
    }
}

/// The name of the state of the random number generator, among the optimizer's tensors.
const RANDOM: &str = "random_state.cpu";

/// The name of the moving average of a parameter.
const AVERAGE: &str = "average";

fn index_of(kind: &str) -> String {
    format!("{kind}.safetensors.index.json")
}

/// Writes a file and syncs it. Returns its size; the error names it.
fn write_file(path: &Path, write: impl FnOnce(&mut File) -> Result<(), String>) -> Result<u64, String> {
    let written = || {
        let mut file = File::create_new(path).map_err(|error| error.to_string())?;
        write(&mut file)?;
        file.sync_all().map_err(|error| error.to_string())?;
        file.metadata().map(|data| data.len()).map_err(|error| error.to_string())
    };
    written().map_err(|reason| format!("`{}`: {reason}", path.file_name().unwrap_or_default().to_string_lossy()))
}

fn copied(shards: Vec<Shard>, old: Vec<Shard>) -> Result<Vec<Shard>> {
    let mut old: BTreeMap<String, Tensor> = old.into_iter().flatten().collect();
    let mut copy = |(name, tensor): (String, Tensor)| {
        let kind = (tensor.kind(), tch::Device::Cpu);
        let fits = |old: &Tensor| old.kind() == kind.0 && old.size() == tensor.size();
        let mut copy = match old.remove(&name).filter(fits) {
            Some(old) => old,
            None => Tensor::f_empty(tensor.size(), kind)?,
        };
        copy.f_copy_(&tensor)?;
        Ok((name, copy))
    };
    shards.into_iter().map(|shard| shard.into_iter().map(&mut copy).collect()).collect()
}

/// A checkpoint whose description has been read and checked.
pub(super) struct Saved {
    model: TensorFiles,
    optimizer: TensorFiles,
    description: Value,
}

/// What is in a checkpoint, and where it goes in a training that it fits.
pub(super) struct Checked {
    steps: u64,
    updates: u64,
    values: BTreeMap<String, String>,
    /// The loss scale, and the updates since it has changed.
    scale: Option<(f64, u64)>,
    /// The variables.
    model: Shard,
    /// The state of the random number generator.
    random: Tensor,
}

impl Saved {
    /// Opens the checkpoint in `folder`. The error is the reason why it is not one.
    pub(super) fn open(folder: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(folder.join(DESCRIPTION))
            .map_err(|error| format!("it is not a checkpoint: `{DESCRIPTION}`: {error}"))?;
        let description: Value =
            serde_json::from_str(&text).map_err(|error| format!("`{DESCRIPTION}` is damaged: {error}"))?;
        if description["format"] != FORMAT {
            return Err(format!("`{DESCRIPTION}` is not that of a checkpoint of this library"));
        }
        match description["version"].as_u64() {
            Some(version) if version <= VERSION => {}
            _ => {
                return Err(format!(
                    "it has version {} of the format, and this library reads versions up to {VERSION}: it was written by a newer one",
                    description["version"]
                ));
            }
        }
        let files = description["files"].as_object().ok_or_else(|| damaged("files"))?;
        for (name, size) in files {
            if !is_in_its_folder(name) {
                return Err(format!("`{DESCRIPTION}` names the file `{name}`, which is not one of its own folder"));
            }
            let found = fs::metadata(folder.join(name)).map_err(|error| format!("`{name}`: {error}"))?.len();
            if Some(found) != size.as_u64() {
                return Err(format!("`{name}` has {found} bytes, and should have {size}: it is torn"));
            }
        }
        let open = |kind| {
            let index = index_of(kind);
            TensorFiles::open(&folder.join(&index)).map_err(|reason| format!("`{index}`: {reason}"))
        };
        Ok(Self { model: open("model")?, optimizer: open("optimizer")?, description })
    }

    /// Checks that the state fits a training. Nothing is changed.
    pub(super) fn check<M: Pipeline>(&self, trainer: &Trainer<M>) -> Result<Checked, String> {
        let number = |name: &str| count(&self.description[name]).ok_or_else(|| damaged(name));
        let (steps, updates) = (number("steps")?, number("updates")?);
        let values: BTreeMap<String, String> =
            serde_json::from_value(self.description["values"].clone()).map_err(|_| damaged("values"))?;
        let scale = self.scale()?;
        match (scale, trainer.scaler) {
            (Some((scale, updates)), Some(mut scaler)) => {
                scaler.restore(scale, updates);
                scaler.check().map_err(|_| damaged("loss_scale"))?;
            }
            (Some(_), None) => {
                return Err("its training scales the loss, and this one does not: set `loss_scaling`".into());
            }
            (None, Some(_)) => return Err("its training does not scale the loss, and this one does".into()),
            (None, None) => {}
        }
        trainer.optimizer.check_whole().map_err(words)?;

        let variables = trainer.pipe.built().state.list();
        let named = |variable: &Variable| Ok((variable.name.clone(), variable.tensor.f_detach().map_err(words)?));
        let model = variables.iter().map(named).collect::<Result<_, String>>()?;
        let described = &self.description["parameters"];
        let random = random_state().map_err(words)?;
        let mut state = trainer.optimizer.expected(described)?;
        state.push((RANDOM.to_owned(), random.shallow_clone()));
        check(&self.model, "variables", &model)?;
        check(&self.optimizer, "optimizer's tensors", &state)?;
        let random = self.random(&random)?;
        Ok(Checked { steps, updates, values, scale, model, random })
    }

    /// Reads the state of the random number generator. `present` is what it is now, and stays.
    fn random(&self, present: &Tensor) -> Result<Tensor, String> {
        let random = present.f_zeros_like().map_err(words)?;
        self.optimizer.get(RANDOM).ok_or_else(|| damaged(RANDOM))?.read_into(&random)?;
        // Only libtorch knows whether it is one.
        let tried = set_random_state(&random);
        set_random_state(present).map_err(words)?;
        tried.map_err(|error| format!("`{RANDOM}` is damaged: {error}"))?;
        Ok(random)
    }

    /// Puts the state into a training. An error is one of reading, or of memory.
    pub(super) fn restore<M: Pipeline>(&self, checked: Checked, trainer: &mut Trainer<M>) -> Result<(), String> {
        let Checked { steps, updates, values, scale, model, random } = checked;
        let described = &self.description["parameters"];
        let state = trainer.optimizer.adopt(described).map_err(words)?;
        for (files, tensors) in [(&self.model, model), (&self.optimizer, state)] {
            // Each process reads what it has.
            for (name, tensor) in tensors.into_iter().filter(|(_, tensor)| !is_elsewhere(tensor)) {
                let saved = files.get(&name).ok_or_else(|| damaged(&name))?;
                saved.read_into(&tensor).map_err(|reason| {
                    format!("`{name}`: {reason}; the training is restored in part, so it cannot go on")
                })?;
            }
        }
        set_random_state(&random).map_err(words)?;
        trainer.optimizer.adopted(described, updates)?;
        if let (Some((scale, updates)), Some(scaler)) = (scale, &mut trainer.scaler) {
            scaler.restore(scale, updates);
        }
        trainer.steps = steps;
        trainer.accumulated = 0;
        trainer.values = values;
        trainer.optimizer.zero_grad().map_err(words)
    }

    fn scale(&self) -> Result<Option<(f64, u64)>, String> {
        let saved = &self.description["loss_scale"];
        if saved.is_null() {
            return Ok(None);
        }
        let scale = saved["scale"].as_str().and_then(|text| text.parse().ok());
        Ok(Some(scale.zip(count(&saved["updates_since_change"])).ok_or_else(|| damaged("loss_scale"))?))
    }
}

/// A number of steps or updates.
fn count(saved: &Value) -> Option<u64> {
    saved.as_u64().filter(|&count| count <= MOST)
}

fn words(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn damaged(what: &str) -> String {
    format!("`{DESCRIPTION}` is damaged: `{what}` is missing or wrong")
}

/// Checks that the files have exactly these tensors.
fn check(files: &TensorFiles, what: &str, tensors: &Shard) -> Result<(), String> {
    let mut faults = Vec::new();
    for (name, tensor) in tensors {
        match files.get(name) {
            None => faults.push(format!("`{name}` is missing")),
            Some(saved) => faults.extend(saved.misfit(tensor)?.map(|misfit| format!("`{name}` {misfit}"))),
        }
    }
    let wanted: BTreeSet<_> = tensors.iter().map(|(name, _)| name.as_str()).collect();
    faults.extend(files.names().filter(|name| !wanted.contains(name)).map(|name| format!("there is no `{name}` here")));
    if faults.is_empty() { Ok(()) } else { Err(format!("its {what} do not fit: {}", faults.join("; "))) }
}

impl Optimizer {
    /// Fails if the parameters are not in a state to be saved or restored.
    fn check_whole(&self) -> Result<()> {
        if self.swapped {
            return Err(Error::Setting("the model holds its moving averages: call `swap_average` again before".into()));
        }
        Ok(())
    }

    /// The tensors of the state, with their stages and names: `exp_avg.encoder.weight`.
    fn tensors(&self) -> Vec<(usize, String, Tensor)> {
        let mut tensors = Vec::new();
        for parameter in &self.parameters {
            let names = self.rule_of(parameter).state_names();
            let state = names.iter().copied().zip(&parameter.state);
            for (name, tensor) in state.chain(parameter.average.iter().map(|average| (AVERAGE, average))) {
                tensors.push((parameter.stage, format!("{name}.{}", parameter.name), tensor.shallow_clone()));
            }
        }
        tensors
    }

    /// For each parameter with a state, its rule and its number of updates.
    /// `kept` has the names of the tensors of all processes.
    fn describe(&self, kept: &BTreeSet<String>) -> Value {
        let has_state = |parameter: &&super::optimizer::Parameter| match self.is_here(parameter) {
            true => parameter.updates > 0 || !parameter.is_bare(),
            false => {
                let names = self.rule_of(parameter).state_names();
                parameter.updates > 0 || names.iter().any(|name| kept.contains(&format!("{name}.{}", parameter.name)))
            }
        };
        let with_state = self.parameters.iter().filter(has_state);
        let describe = |parameter: &super::optimizer::Parameter| {
            (parameter.name.clone(), json!({ "rule": self.rule_of(parameter).name(), "updates": parameter.updates }))
        };
        with_state.map(describe).collect::<serde_json::Map<_, _>>().into()
    }

    /// The names of the tensors that a checkpoint must have, each with a tensor of its shape and
    /// kind, if it describes parameters that are here, with the same rules.
    fn expected(&self, described: &Value) -> Result<Shard, String> {
        let described = described.as_object().ok_or_else(|| damaged("parameters"))?;
        let mut expected = Shard::new();
        for (name, saved) in described {
            let Some(parameter) = self.parameters.iter().find(|parameter| parameter.name == *name) else {
                return Err(format!("there is no parameter `{name}` here"));
            };
            let rule = self.rule_of(parameter);
            if count(&saved["updates"]).is_none() {
                return Err(damaged("parameters"));
            }
            if saved["rule"] != rule.name() {
                return Err(format!("`{name}` was updated by {}, and is by {} here", saved["rule"], rule.name()));
            }
            let tensors = rule.state_names().iter().chain(self.keeps_average().then_some(&AVERAGE));
            expected.extend(tensors.map(|tensor| (format!("{tensor}.{name}"), parameter.tensor.shallow_clone())));
        }
        Ok(expected)
    }

    /// Allocates the state of the parameters that a checkpoint describes, and only theirs.
    fn adopt(&mut self, described: &Value) -> Result<Shard> {
        self.allocate_for(|parameter| described.get(&parameter.name).is_some())?;
        Ok(self.tensors().into_iter().map(|(_, name, tensor)| (name, tensor)).collect())
    }

    /// Takes over the numbers of updates.
    fn adopted(&mut self, described: &Value, updates: u64) -> Result<(), String> {
        for parameter in &mut self.parameters {
            parameter.updates = described[&parameter.name]["updates"].as_u64().unwrap_or(0);
        }
        self.set_updates(updates);
        Ok(())
    }
}
