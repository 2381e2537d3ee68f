//! Variables to files, and from files.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use pipe_schedule::support::spelling::nearest;
use tch::Tensor;

use super::Vars;
use crate::error::{Error, Result};
use crate::files::{SavedTensor, TensorFiles, in_file_order, replace, write_part, write_tensors, write_tensors_from};
use crate::model::devices::Across;
use crate::torch::is_elsewhere;

impl Vars {
    /// Writes all variables to one safetensors file, with any extension. It takes no memory for a
    /// second copy of the model.
    ///
    /// The file is complete at every moment: a new one is written beside it, synced to the disk,
    /// and takes its place in one step. If saving fails, or the process ends, the file is the old
    /// one. A process that is killed may leave a file `.*.partial` in the folder.
    ///
    /// Over several processes, all of them call this: the first one writes the file.
    ///
    /// For the optimizer's state and all else that a training needs to go on, see
    /// [`Checkpoints`](crate::Checkpoints).
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be written.
    pub fn save(&self, file: impl AsRef<Path>) -> Result<()> {
        let file = file.as_ref();
        let named = self.named();
        let failed = |reason| Error::File(format!("cannot write {}: {reason}", file.display()));
        let Some(Across { world, process_of, .. }) = &self.across else {
            return replace(file, |new| write_tensors(new, &named)).map_err(failed);
        };
        let owner = |name: &str| self.stage_of_variable(name).map_or(0, |stage| process_of[stage]);
        let order = self.agree("Vars::save", in_file_order(&named).map_err(failed))?;
        if !world.is_first() {
            for (_, name, tensor) in order.into_iter().filter(|(_, name, _)| owner(name) == world.process()) {
                let sent = world.send(0, tensor).inspect_err(|error| world.give_up(error));
                sent.map_err(|error| Error::Connection(format!("cannot send `{name}`: {error}")))?;
            }
            return self.agree("the end of Vars::save", Ok(()));
        }
        // One variable at a time comes from the other processes of the first replica, in the order
        // of the file.
        let mut elsewhere = order.into_iter().filter(|(_, name, _)| owner(name) != 0);
        let mut next = || {
            let (_, name, tensor) = elsewhere.next()?;
            // After an error here, the owner would wait: it hears that this process takes no more.
            Some(world.receive(owner(name), tensor.size(), tensor.kind()).inspect_err(|error| world.give_up(error)))
        };
        let written = replace(file, |new| {
            write_tensors_from(new, &named, &mut |name, tensor| match owner(name) {
                0 => Ok(tensor.shallow_clone()),
                _ => next().unwrap_or_else(|| Ok(tensor.shallow_clone())).map_err(|error| error.to_string()),
            })
        });
        // If writing has failed, the others still send theirs.
        while next().transpose()?.is_some() {}
        self.agree("the end of Vars::save", written.map_err(failed))
    }

    /// Writes the variables of this process's stages to a safetensors file, without the other
    /// processes: for what is left after one of them was lost. The file is marked as a part, which
    /// [`load`](Self::load) refuses; a [`partial`](Loader::partial) loader reads it.
    ///
    /// Processes that have seen a loss may differ by a step: one has taken the last one, and
    /// another one has not.
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be written.
    pub fn save_part(&self, file: impl AsRef<Path>) -> Result<()> {
        let file = file.as_ref();
        let Some(Across { world, .. }) = &self.across else { return self.save(file) };
        let own: Vec<_> = self.named().into_iter().filter(|(_, tensor)| !is_elsewhere(tensor)).collect();
        let part = format!("process {} of {}", world.process(), world.size());
        replace(file, |new| write_part(new, &own, &part))
            .map_err(|reason| Error::File(format!("cannot write {}: {reason}", file.display())))
    }

    /// Agrees with the other processes, if there are any, on what all have done: one error for all.
    fn agree<T>(&self, what: &str, own: Result<T>) -> Result<T> {
        if let Some(Across { world, .. }) = &self.across {
            world.agree(what, own.as_ref().map(|_| &()))?;
        }
        own
    }

    /// Reads all variables: from a safetensors file, with any extension; from an index of several
    /// (`model.safetensors.index.json`), as Hugging Face writes them; or from a folder with one of
    /// these. Each tensor goes straight to its variable, on its stage's device.
    ///
    /// Floats are converted to the variable's kind, and integers to integers. A number that would
    /// become infinite or another one is an error. For files with other names, or with only some of
    /// the variables, use [`loader`](Self::loader).
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be read, or if its names, shapes or kinds are not exactly those of
    /// the variables. Then no variable is changed. If the file cannot be read to its end although
    /// its header is right (a broken disk), some variables may be changed; the error says so.
    pub fn load(&self, path: impl AsRef<Path>) -> Result<()> {
        self.loader(path.as_ref()).load().map(drop)
    }

    /// Prepares to read variables from a file, an index or a folder, as [`load`](Self::load) does,
    /// with options.
    ///
    /// ```no_run
    /// # fn example(vars: &pipe_runtime::Vars) -> pipe_runtime::Result<()> {
    /// // A checkpoint whose blocks are called `transformer.h.0`, and that has another head.
    /// let report = vars.loader("gpt2").rename_start("transformer.h", "blocks").partial().load()?;
    /// println!("{report}");
    /// # Ok(())
    /// # }
    /// ```
    pub fn loader(&self, path: impl AsRef<Path>) -> Loader<'_> {
        Loader { vars: self, path: path.as_ref().to_path_buf(), rename: Vec::new(), partial: false }
    }

    /// The variables, sorted by name.
    pub(crate) fn named(&self) -> Vec<(String, Tensor)> {
        let mut named: Vec<_> = self.var_store().variables().into_iter().collect();
        named.sort_by(|(a, _), (b, _)| a.cmp(b));
        named
    }
}

/// Gives a name of the file the name that it has in the model; `None` leaves the tensor out.
type Rename = Box<dyn Fn(&str) -> Option<String>>;

/// One renaming of the names of the file.
enum Renaming {
    By(Rename),
    Pairs(BTreeMap<String, String>),
}

/// Reads variables from files. Made by [`Vars::loader`].
#[must_use = "a loader does nothing until `load` is called"]
pub struct Loader<'v> {
    vars: &'v Vars,
    path: PathBuf,
    rename: Vec<Renaming>,
    partial: bool,
}

/// A variable, its name, and the tensor of a file that fits it.
type Fitting<'a> = (&'a String, &'a Tensor, SavedTensor<'a>);

/// What was read, and what was not. Made by [`Loader::load`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[must_use]
pub struct LoadReport {
    /// The variables that were read.
    pub loaded: Vec<String>,
    /// The variables that the file does not have.
    pub missing: Vec<String>,
    /// The tensors of the file, by their names in the model, that the model does not have.
    pub unknown: Vec<String>,
    /// The variables whose tensors in the file do not fit them, and why.
    pub misfits: Vec<(String, String)>,
}

impl Loader<'_> {
    /// Renames the tensors of the file: `rename` gets the name in the file and returns the name in
    /// the model, or `None` to leave the tensor out. Several renamings apply one after the other.
    pub fn rename(mut self, rename: impl Fn(&str) -> Option<String> + 'static) -> Self {
        self.rename.push(Renaming::By(Box::new(rename)));
        self
    }

    /// Renames single tensors: each pair has a whole name in the file and the name in the model.
    /// The other tensors keep their names.
    ///
    /// [`load`](Self::load) fails if the file does not have the first name of a pair.
    pub fn rename_pairs<F: Into<String>, M: Into<String>>(mut self, pairs: impl IntoIterator<Item = (F, M)>) -> Self {
        let pairs = pairs.into_iter().map(|(from, to)| (from.into(), to.into()));
        self.rename.push(Renaming::Pairs(pairs.collect()));
        self
    }

    /// Renames the tensors whose names in the file begin with `from`, up to a `.`: they begin with
    /// `to` in the model.
    pub fn rename_start(self, from: impl Into<String>, to: impl Into<String>) -> Self {
        let (from, to) = (from.into(), to.into());
        self.rename(move |name| {
            let rest = name.strip_prefix(&from).filter(|rest| rest.is_empty() || rest.starts_with('.'));
            Some(rest.map_or_else(|| name.to_owned(), |rest| format!("{to}{rest}").trim_start_matches('.').to_owned()))
        })
    }

    /// Reads what fits, instead of failing if anything does not. The report says what was left out.
    pub fn partial(mut self) -> Self {
        self.partial = true;
        self
    }

    /// Reads the variables.
    ///
    /// # Errors
    ///
    /// Fails in the same cases as [`Vars::load`], if two tensors of the file get one name, if a
    /// [pair](Self::rename_pairs) names no tensor, or, with
    /// [`partial`](Self::partial), if nothing of the file is in the model.
    pub fn load(self) -> Result<LoadReport> {
        let files = TensorFiles::open(&self.path).map_err(|reason| self.unreadable(reason));
        let files = self.vars.agree("Vars::load", files)?;
        let variables = self.vars.named();
        // No process reads anything before all of them can.
        let (report, fitting) = self.vars.agree("the check of Vars::load", self.fitting(&files, &variables))?;
        self.vars.agree("the end of Vars::load", self.read(report, fitting))
    }

    /// The variables that the files have, each with its tensor, and a report on the others.
    fn fitting<'a>(
        &self,
        files: &'a TensorFiles,
        variables: &'a [(String, Tensor)],
    ) -> Result<(LoadReport, Vec<Fitting<'a>>)> {
        if let Some(part) = files.part().filter(|_| !self.partial) {
            return Err(Error::File(format!(
                "{} has a part of the variables, those of {part}: read it with `vars.loader(..).partial()`",
                self.path.display()
            )));
        }
        let names = self.names(files)?;
        let mut report = LoadReport::default();
        let mut read = BTreeSet::new();
        let mut fitting = Vec::new();
        for (name, variable) in variables {
            let Some(tensor) = names.get(name).and_then(|in_file| files.get(in_file)) else {
                report.missing.push(name.clone());
                continue;
            };
            read.insert(tensor.name);
            match tensor.misfit(variable).map_err(|reason| self.unreadable(reason))? {
                Some(misfit) if tensor.name == name => report.misfits.push((name.clone(), misfit)),
                Some(misfit) => {
                    report.misfits.push((name.clone(), format!("(saved as `{}`) {misfit}", tensor.name)));
                }
                None => fitting.push((name, variable, tensor)),
            }
        }
        let unknown = names.iter().filter(|(_, in_file)| files.is_kept(in_file) && !read.contains(in_file.as_str()));
        report.unknown = unknown.map(|(name, _)| name.clone()).collect();
        if !self.partial && report.is_partial() {
            return Err(Error::File(format!("{} does not fit the model: {}", self.path.display(), report.faults())));
        }
        if fitting.is_empty() {
            return Err(Error::File(format!(
                "nothing in {} is in the model: {}",
                self.path.display(),
                report.faults()
            )));
        }
        Ok((report, fitting))
    }

    fn read(&self, mut report: LoadReport, fitting: Vec<Fitting<'_>>) -> Result<LoadReport> {
        for (name, variable, tensor) in fitting {
            // Each process reads what it has.
            if is_elsewhere(variable) {
                continue;
            }
            tensor.read_into(variable).map_err(|reason| {
                let changed = match report.loaded.len() {
                    0 => format!("`{name}` may be changed in part"),
                    _ => format!("the variables up to `{name}` are changed, and it may be in part"),
                };
                Error::File(format!("cannot read {} to its end: {reason}; {changed}", self.path.display()))
            })?;
            report.loaded.push(name.clone());
        }
        Ok(report)
    }

    fn unreadable(&self, reason: String) -> Error {
        let here = self.vars.across.as_ref().map_or_else(String::new, |across| across.world.reads_the_same_files());
        Error::File(format!("cannot read {}: {reason}{here}", self.path.display()))
    }

    /// For each name in the model, the name in the file. Tied weights that the file leaves out keep
    /// their names.
    fn names(&self, files: &TensorFiles) -> Result<BTreeMap<String, String>> {
        let mut names: BTreeMap<String, String> = BTreeMap::new();
        // What each renaming has been given.
        let mut given = vec![BTreeSet::new(); self.rename.len()];
        for name in files.names().chain(files.aliases()) {
            let renamings = self.rename.iter().zip(&mut given);
            let renamed = renamings.into_iter().try_fold(name.to_owned(), |name, (renaming, given)| {
                given.insert(name.clone());
                match renaming {
                    Renaming::By(rename) => rename(&name),
                    Renaming::Pairs(pairs) => Some(pairs.get(&name).cloned().unwrap_or(name)),
                }
            });
            let Some(renamed) = renamed else { continue };
            if let Some(other) = names.insert(renamed.clone(), name.to_owned()) {
                return Err(Error::File(format!(
                    "`{other}` and `{name}` of {} are both renamed to `{renamed}`",
                    self.path.display()
                )));
            }
        }
        for (renaming, given) in self.rename.iter().zip(&given) {
            let Renaming::Pairs(pairs) = renaming else { continue };
            if let Some(wrong) = pairs.keys().find(|name| !given.contains(*name)) {
                let hint = nearest(wrong, given.iter().map(String::as_str));
                let hint = hint.map(|name| format!(": did you mean `{name}`?")).unwrap_or_default();
                return Err(Error::File(format!("{} has no `{wrong}` to rename{hint}", self.path.display())));
            }
        }
        Ok(names)
    }
}

impl LoadReport {
    /// Whether anything was left out.
    pub fn is_partial(&self) -> bool {
        !(self.missing.is_empty() && self.unknown.is_empty() && self.misfits.is_empty())
    }

    fn faults(&self) -> String {
        let missing = self.missing.iter().map(|name| format!("`{name}` is missing"));
        let misfits = self.misfits.iter().map(|(name, why)| format!("`{name}` {why}"));
        let unknown = self.unknown.iter().map(|name| format!("the model has no `{name}`"));
        missing.chain(misfits).chain(unknown).collect::<Vec<_>>().join("; ")
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} variables read", self.loaded.len())?;
        if self.is_partial() { write!(f, "; {}", self.faults()) } else { Ok(()) }
    }
}

impl fmt::Debug for Loader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loader")
            .field("path", &self.path)
            .field("renames", &self.rename.len())
            .field("partial", &self.partial)
            .finish_non_exhaustive()
    }
}
