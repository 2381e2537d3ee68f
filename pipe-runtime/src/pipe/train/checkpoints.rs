use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::snapshot::{DESCRIPTION, Saved, Snapshot};
use super::trainer::Trainer;
use crate::error::{Error, Result};
use crate::files::sync_folder;
use crate::run::BuiltPipeline;
use crate::stages::Pipeline;

/// Checkpoints of a training in a folder: variables, the optimizer's state, counters, the loss
/// scale, the state of the random number generator, and [values](Trainer::set_value) of the user's
/// own.
///
/// A training that resumes one goes on as if it had never been interrupted, to the bit: also under
/// another partitioning, and under another schedule that sums gradients in the same order, with the
/// same number of micro-batches.
///
/// Each checkpoint is a folder `step-0000001000`. It is written under another name, synced to the
/// disk and then renamed, so a folder of that name is complete. The `model*` files in it are those
/// of Hugging Face's layout: [`Vars::load`](crate::Vars::load) and other tools read them.
///
/// ```no_run
/// # use pipe_runtime::{Checkpoints, Pipeline, Trainer};
/// # fn example<M: Pipeline>(trainer: &mut Trainer<M>) -> pipe_runtime::Result<()> {
/// let mut checkpoints = Checkpoints::in_folder("checkpoints").keep(3);
/// if checkpoints.resume(trainer)? {
///     println!("goes on after step {}", trainer.steps());
/// }
/// // .. train ..
/// checkpoints.save_in_background(trainer)?; // copies the state, and writes while training goes on
/// // .. train ..
/// checkpoints.finish()?;
/// # Ok(())
/// # }
/// ```
pub struct Checkpoints {
    folder: PathBuf,
    keep: usize,
    background: Option<JoinHandle<Saving>>,
    /// The pipeline of a save in the background whose outcome its processes have not agreed on.
    saved: Option<Arc<BuiltPipeline>>,
    /// The copy that the last save in the background has made, to be used again.
    buffer: Option<Buffer>,
}

/// The name of a checkpoint that was saved in the background, and the memory that it used.
type Saving = (Result<String>, Buffer);

struct Buffer(Snapshot);

impl std::fmt::Debug for Checkpoints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checkpoints")
            .field("folder", &self.folder)
            .field("keep", &self.keep)
            .field("background", &self.background.is_some())
            .finish_non_exhaustive()
    }
}

impl Checkpoints {
    /// Looks for checkpoints in this folder, and makes it when the first one is saved.
    pub fn in_folder(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), keep: usize::MAX, background: None, saved: None, buffer: None }
    }

    /// Keeps the newest `count` checkpoints, at least one: once a new one is complete, older ones
    /// are removed. By default all are kept.
    pub fn keep(mut self, count: usize) -> Self {
        self.keep = count.max(1);
        self
    }

    /// Saves a checkpoint, and returns its folder. It takes no memory for a second copy of the
    /// state. A save in the background is waited for first.
    ///
    /// # Errors
    ///
    /// Fails if the checkpoint cannot be written: earlier ones stay. Also fails between two
    /// updates, if gradients are being accumulated, and if the save in the background has failed.
    pub fn save<M: Pipeline>(&mut self, trainer: &Trainer<M>) -> Result<PathBuf> {
        self.finish()?;
        let built = trainer.pipe.built();
        let snapshot = Snapshot::of(trainer)?;
        let written = match built.writes_files() {
            true => write(&self.folder, self.keep, &snapshot, trainer.steps()).map(Some),
            false => Ok(None),
        };
        let names = built.agree("the end of a save", written)?;
        let name = names.into_iter().flatten().next();
        let name = name.ok_or_else(|| Error::File("no process has written the checkpoint".into()))?;
        Ok(self.folder.join(name))
    }

    /// Copies the state, and saves it while the training goes on. The copy's memory, that of the
    /// variables and the optimizer's state, is kept for the next time. An earlier save in the
    /// background is waited for first.
    ///
    /// # Errors
    ///
    /// Fails if the earlier save has failed, or between two updates. Errors of this save are those
    /// of the next call of `save`, `save_in_background`, `resume` or [`finish`](Self::finish).
    pub fn save_in_background<M: Pipeline>(&mut self, trainer: &Trainer<M>) -> Result<()> {
        self.finish()?;
        let built = trainer.pipe.built();
        let snapshot = Snapshot::of(trainer)?;
        let started = if built.writes_files() { self.start(snapshot, trainer.steps()) } else { Ok(()) };
        built.agree("the beginning of a save in the background", started)?;
        self.saved = Some(Arc::clone(built));
        Ok(())
    }

    /// Copies the state and starts to save it.
    fn start(&mut self, snapshot: Snapshot, steps: u64) -> Result<()> {
        let before = self.buffer.take().map(|Buffer(snapshot)| snapshot);
        let snapshot = snapshot.copied(before)?;
        let (folder, keep) = (self.folder.clone(), self.keep);
        let save = move || (write(&folder, keep, &snapshot, steps), Buffer(snapshot));
        let started = thread::Builder::new().name("pipe-checkpoint".into()).spawn(save);
        let started = started.map_err(|error| Error::File(format!("cannot start a thread to save: {error}")))?;
        self.background = Some(started);
        Ok(())
    }

    /// Waits for a save in the background, and returns its folder; `None` if there is none.
    /// Dropping the checkpoints waits too, but can only print an error.
    ///
    /// # Errors
    ///
    /// Fails if that save failed.
    pub fn finish(&mut self) -> Result<Option<PathBuf>> {
        let name = match &self.saved {
            Some(built) => {
                // The save is not forgotten if another process calls something else.
                let built = Arc::clone(built);
                let agreed = built.agree("Checkpoints::finish", Ok(()));
                if let Err(error @ Error::Setting(_)) = agreed {
                    return Err(error);
                }
                self.saved = None;
                let own = self.join();
                agreed?;
                built.agree("the end of a save in the background", own)?.into_iter().flatten().next()
            }
            None => self.join()?,
        };
        Ok(name.map(|name| self.folder.join(name)))
    }

    /// Waits for the thread that saves, if there is one. Returns the checkpoint's name.
    fn join(&mut self) -> Result<Option<String>> {
        let Some(background) = self.background.take() else { return Ok(None) };
        match background.join() {
            Ok((saved, buffer)) => {
                self.buffer = Some(buffer);
                saved.map(Some)
            }
            Err(panic) => Err(Error::File(format!(
                "cannot save a checkpoint in {}: {}",
                self.folder.display(),
                crate::torch::panic_message(panic)
            ))),
        }
    }

    /// Returns the newest complete checkpoint; `None` if there is none.
    ///
    /// # Errors
    ///
    /// Fails if the folder cannot be read.
    pub fn latest(&self) -> Result<Option<PathBuf>> {
        Ok(self.latest_name()?.map(|name| self.folder.join(name)))
    }

    fn latest_name(&self) -> Result<Option<String>> {
        let found = list(&self.folder).map_err(|error| {
            Error::File(format!("cannot look for checkpoints in {}: {error}", self.folder.display()))
        })?;
        let newest = found.into_iter().next_back();
        Ok(newest.and_then(|(_, path)| Some(path.file_name()?.to_string_lossy().into_owned())))
    }

    /// Restores the newest complete checkpoint. Returns false, and changes nothing, if there is
    /// none.
    ///
    /// The model, its variables' names and shapes, the optimizer's rules and groups must be those
    /// of the saved training; devices, stages, the schedule and the learning rates need not.
    ///
    /// # Errors
    ///
    /// Fails if the checkpoint is not one, if it is torn or from a newer version of this library,
    /// or if it does not fit the training. Then nothing is changed, unless a file cannot be read to
    /// its end; the error says so.
    pub fn resume<M: Pipeline>(&mut self, trainer: &mut Trainer<M>) -> Result<bool> {
        self.finish()?;
        // The first process says which one it is.
        let latest = self.latest_name();
        let latest = trainer.pipe.built().agree("the search for a checkpoint", latest)?.into_iter().next().flatten();
        let Some(latest) = latest else { return Ok(false) };
        Self::resume_from(self.folder.join(latest), trainer).map(|()| true)
    }

    /// Restores the checkpoint in this folder.
    ///
    /// # Errors
    ///
    /// Fails in the same cases as [`resume`](Self::resume).
    pub fn resume_from<M: Pipeline>(checkpoint: impl AsRef<Path>, trainer: &mut Trainer<M>) -> Result<()> {
        let folder = checkpoint.as_ref();
        let built = Arc::clone(trainer.pipe.built());
        let here = built.reads_the_same_files();
        let failed = |reason| Error::File(format!("cannot resume {}: {reason}{here}", folder.display()));
        let checked = Saved::open(folder).and_then(|saved| saved.check(trainer).map(|checked| (saved, checked)));
        // No process restores anything before all of them can.
        let (mut own, outcome) = match checked {
            Ok(own) => (Some(own), Ok(())),
            Err(reason) => (None, Err(failed(reason))),
        };
        built.agree("a resume from a checkpoint", outcome)?;
        let restored = own.take().map_or(Ok(()), |(saved, checked)| saved.restore(checked, trainer));
        built.agree("the end of a resume", restored.map_err(failed)).map(drop)
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        if let Err(error) = self.join() {
            eprintln!("pipe-runtime: {error}");
        }
    }
}

/// Marks folders that are not complete yet, or not any more.
const PARTIAL: &str = ".partial";

/// Writes a checkpoint in `folder`, then removes all but the newest `keep`. Returns its name.
fn write(folder: &Path, keep: usize, snapshot: &Snapshot, steps: u64) -> Result<String> {
    let written = || {
        fs::create_dir_all(folder).map_err(|error| error.to_string())?;
        let words = |error: io::Error| error.to_string();
        remove_partial(folder).map_err(words)?;
        let taken = list(folder).map_err(words)?;
        let last = taken.iter().filter(|((of, _), _)| *of == steps).map(|((_, again), _)| *again).max();
        let name = match last.map(|last| last.checked_add(1)) {
            None => format!("step-{steps:010}"),
            Some(Some(again)) => format!("step-{steps:010}.{again}"),
            Some(None) => return Err(format!("no name comes after `step-{steps:010}.{}`: remove it", u64::MAX)),
        };
        let partial = folder.join(format!(".{name}{PARTIAL}"));
        if let Err(reason) = snapshot.write(&partial) {
            // What there is of it would only take space. The reason is what matters.
            let _ = fs::remove_dir_all(&partial);
            return Err(reason);
        }
        let complete = folder.join(&name);
        fs::rename(&partial, &complete).map_err(words)?;
        sync_folder(folder).map_err(words)?;

        let complete_ones = list(folder).map_err(words)?;
        let surplus = complete_ones.len().saturating_sub(keep);
        for (_, old) in complete_ones.into_iter().filter(|(_, path)| *path != complete).take(surplus) {
            let name = old.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let partial = folder.join(format!(".{name}{PARTIAL}"));
            fs::rename(&old, &partial).map_err(words)?;
            fs::remove_dir_all(&partial).map_err(words)?;
        }
        Ok(name)
    };
    written().map_err(|reason| Error::File(format!("cannot save a checkpoint in {}: {reason}", folder.display())))
}

/// Removes what interrupted saves have left.
fn remove_partial(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(".step-") && name.ends_with(PARTIAL) {
            match entry.file_type()?.is_dir() {
                true => fs::remove_dir_all(entry.path())?,
                false => fs::remove_file(entry.path())?,
            }
        }
    }
    Ok(())
}

/// The complete checkpoints in a folder, the newest last. Each has its number of steps, and how
/// many had the same number before.
fn list(folder: &Path) -> io::Result<Vec<((u64, u64), PathBuf)>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(numbers) = name.strip_prefix("step-") else { continue };
        let (steps, again) = numbers.split_once('.').unwrap_or((numbers, "0"));
        if let (Some(steps), Some(again), true) = (number(steps), number(again), path.join(DESCRIPTION).is_file()) {
            found.push(((steps, again), path));
        }
    }
    found.sort();
    Ok(found)
}

/// A number of digits alone: no sign.
fn number(digits: &str) -> Option<u64> {
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complete_checkpoints_are_listed_in_the_order_of_their_steps() {
        let folder = tempfile::tempdir().unwrap();
        let names = ["step-0000000009", "step-0000000010", "step-0000000010.2", "step-0000000010.1"];
        for name in names.into_iter().chain(["notes", "step-x", "step-+5", "step--5", "step-5.+1", "step-"]) {
            fs::create_dir(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(name).join(DESCRIPTION), "").unwrap();
        }
        fs::create_dir(folder.path().join("step-0000000011")).unwrap();
        fs::create_dir(folder.path().join(".step-0000000012.partial")).unwrap();
        fs::write(folder.path().join(".step-0000000013.partial"), "").unwrap();
        let found: Vec<_> = list(folder.path()).unwrap().into_iter().map(|(number, _)| number).collect();
        assert_eq!(found, [(9, 0), (10, 0), (10, 1), (10, 2)]);
        assert!(list(&folder.path().join("nowhere")).unwrap().is_empty());
        remove_partial(folder.path()).unwrap();
        for name in [".step-0000000012.partial", ".step-0000000013.partial"] {
            assert!(!folder.path().join(name).exists(), "{name}");
        }
    }
}
