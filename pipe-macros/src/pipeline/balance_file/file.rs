//! The balance file itself: its format, and what must hold of it whatever the fields are.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use proc_macro2::Ident;
use serde::Deserialize;
use syn::LitStr;

use crate::support::depth;
use crate::support::device;
use crate::support::errors::{Errors, error};
use crate::support::names::plain;

/// Gives the text of a file.
pub type ReadFile<'r> = &'r dyn Fn(&Path) -> io::Result<String>;

/// What the compiler reads files with.
pub fn from_disk(path: &Path) -> io::Result<String> {
    std::fs::read_to_string(path)
}

/// The version of the file format that is read here; the runtime writes the same.
const FORMAT: u32 = 1;

/// The file, as `pipe_runtime::balance` writes it.
#[derive(Deserialize)]
pub(super) struct File {
    pub(super) format: u32,
    pub(super) model: String,
    pub(super) stages: usize,
    pub(super) devices: Option<Vec<String>>,
    pub(super) schedule: Option<String>,
    pub(super) chunks: Option<usize>,
    pub(super) checkpoint: Option<String>,
    pub(super) cheap_outputs: Option<String>,
    #[serde(default)]
    pub(super) processes: Vec<usize>,
    #[serde(default)]
    pub(super) costs: Vec<u64>,
    #[serde(default)]
    pub(super) layers: Vec<Entry>,
}

#[derive(Deserialize)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) count: Option<usize>,
    pub(super) stage: Stage,
    pub(super) recompute: Option<Recompute>,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Stage {
    Of(usize),
    OfEach(Vec<usize>),
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Recompute {
    Of(bool),
    OfEach(Vec<bool>),
}

/// The path of the file, relative to the crate's manifest. rustc watches it.
pub fn path(file: &LitStr) -> PathBuf {
    let root = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).unwrap_or_default();
    root.join(file.value())
}

pub(super) fn read(named: &LitStr, model: &Ident, read_file: ReadFile<'_>) -> syn::Result<File> {
    let wrong = |what: String, help: String| error(named, what, help);
    let text = read_file(&path(named)).map_err(|reason| {
        let help =
            "write it with `profile.write(..)` (see `pipe_runtime::balance`); the path starts at the crate's folder";
        wrong(format!("cannot read `{}`: {reason}", named.value()), help.into())
    })?;
    let no_file = |reason: String| {
        wrong(
            format!("`{}` is not a balance file: {reason}", named.value()),
            "measure again, and write it again".into(),
        )
    };
    if is_too_deep(&text) {
        return Err(no_file("it is nested too deeply".into()));
    }
    let file: File = basic_toml::from_str(&text).map_err(|reason| no_file(reason.to_string()))?;
    if file.format != FORMAT {
        let what = format!("`{}` has format {}, and this version reads format {FORMAT}", named.value(), file.format);
        return Err(wrong(what, "measure again with this version".into()));
    }
    if file.model != plain(model) {
        let what = format!("`{}` was measured for `{}`, not for `{model}`", named.value(), file.model);
        return Err(wrong(what, format!("measure `{model}`, or name its file")));
    }
    Ok(file)
}

/// Whether lists or names with dots are nested so deeply that the parser, which calls itself, could
/// end the compiler.
fn is_too_deep(text: &str) -> bool {
    let mut open = 0_usize;
    text.lines().any(|line| {
        let mut dots = 0;
        line.chars().any(|sign| {
            match sign {
                '[' | '{' => open += 1,
                ']' | '}' => open = open.saturating_sub(1),
                '.' => dots += 1,
                _ => {}
            }
            open + dots > depth::LIMIT
        })
    })
}

/// The devices, one per stage. There are at most as many stages as entries that name one: the
/// number that the file gives may be of any size.
///
/// A name that is not a device is reported once, even if several stages are on it.
pub(super) fn devices(file: &File, named: &LitStr, errors: &mut Errors) -> Vec<String> {
    let known = file.devices.as_deref().unwrap_or_default();
    let mut unreadable: Vec<&String> = Vec::new();
    for device in known {
        if device::read(device).is_err() && !unreadable.contains(&device) {
            let what = format!("`{}` places stages on `{device}`, which is not a device", named.value());
            errors.push(error(named, what, "devices are `cpu`, `cuda:N`, `mps` and `xpu:N`: correct it in the file"));
            unreadable.push(device);
        }
    }
    let named_stages = |entry: &Entry| match &entry.stage {
        Stage::Of(_) => 1,
        Stage::OfEach(stages) => stages.len(),
    };
    let most: usize = file.layers.iter().map(named_stages).sum();
    let device = |stage: usize| known.get(stage).map_or("cpu", String::as_str).to_owned();
    (0..file.stages.min(most)).map(device).collect()
}

/// Checks that there are as many processes and costs as stages, and that processes have no gap.
pub(super) fn one_for_each_stage(file: &File, named: &LitStr, errors: &mut Errors) {
    let counts = [(file.processes.len(), "processes"), (file.costs.len(), "costs")];
    for (count, what) in counts.into_iter().filter(|(count, _)| ![0, file.stages].contains(count)) {
        errors.push(stale(named, named, format!("has {count} {what} for {} stages", file.stages)));
    }
    let processes: BTreeSet<usize> = file.processes.iter().copied().collect();
    if let Some((gap, _)) = processes.iter().enumerate().find(|&(number, &process)| number != process) {
        errors.push(stale(named, named, format!("has no stage in process {gap}, but one in a later process")));
    }
}

pub(super) fn stale(at: &impl quote::ToTokens, named: &LitStr, what: String) -> syn::Error {
    let help = format!(
        "the model has changed since it was measured: write `{}` again, or remove the setting `balance`",
        named.value()
    );
    error(at, format!("`{}` {what}", named.value()), help)
}
