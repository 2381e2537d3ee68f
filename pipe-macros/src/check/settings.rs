//! Rules of the settings.

use proc_macro2::Ident;
use syn::{Expr, ExprLit, ExprUnary, Lit, UnOp};

use crate::errors::{Errors, error};
use crate::model::Model;
use crate::names::nearest;
use crate::parse::{Checkpoint, whole_number, word};

const SETTINGS: [&str; 8] = ["input", "output", "chunks", "checkpoint", "schedule", "balance", "allow", "crate"];

/// The modes of checkpointing.
const MODES: [&str; 3] = ["always", "except_last", "never"];

/// The schedules that there are.
const SCHEDULES: [&str; 1] = ["gpipe"];

const CHUNKS: &str = "number of chunks must be positive integer";

const CHECKPOINT: &str = "checkpoint is not one of 'always', 'except_last', or 'never'";

/// Every name is one of a setting. `#[pipeline(chunk = 8)]`
pub fn no_unknown_settings(model: &Model, errors: &mut Errors) {
    for name in &model.settings.unknown {
        let help = match nearest(&name.to_string(), SETTINGS) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("the settings are `{}`", SETTINGS.join("`, `")),
        };
        errors.push(error(name, format!("unknown setting `{name}`"), help));
    }
}

/// A batch is cut into one or more micro-batches. `#[pipeline(chunks = 0)]`
pub fn chunks_are_positive(model: &Model, errors: &mut Errors) {
    let Some(chunks) = &model.settings.chunks else { return };
    if is_number(chunks) && whole_number(chunks).is_none_or(|number| number == 0) {
        errors.push(error(chunks, CHUNKS, "`chunks = 1` runs a mini-batch in one piece"));
    }
}

/// The number is written here, so that it can be checked here. `#[pipeline(chunks = CHUNKS)]`
pub fn chunks_are_literals(model: &Model, errors: &mut Errors) {
    let Some(chunks) = model.settings.chunks.as_ref().filter(|chunks| !is_number(chunks)) else { return };
    let help = "write a literal number such as `chunks = 8`; `.chunks(n)` on the pipe takes any value";
    errors.push(error(chunks, CHUNKS, help));
}

/// The mode is one of three. `#[pipeline(checkpoint = sometimes)]`
pub fn checkpoint_is_known(model: &Model, errors: &mut Errors) {
    let Some(checkpoint) = model.settings.checkpoint.as_ref().filter(|mode| quoted(mode).is_none()) else { return };
    if Checkpoint::named(checkpoint).is_none() {
        let meant = word(checkpoint).and_then(|word| nearest_of(word, &MODES));
        let help = meant.unwrap_or_else(|| "write one of them, such as `checkpoint = except_last`".to_owned());
        errors.push(error(checkpoint, CHECKPOINT, help));
    }
}

/// The mode is a word, as all names are here. `#[pipeline(checkpoint = "never")]`
pub fn modes_are_words(model: &Model, errors: &mut Errors) {
    let Some(checkpoint) = &model.settings.checkpoint else { return };
    if let Some(text) = quoted(checkpoint) {
        let mode = nearest(&text, MODES).unwrap_or("except_last");
        errors.push(error(checkpoint, CHECKPOINT, format!("write it without quotes: `checkpoint = {mode}`")));
    }
}

/// The schedule is one that exists. `#[pipeline(schedule = gpip)]`
pub fn schedule_is_known(model: &Model, errors: &mut Errors) {
    let Some(schedule) = &model.settings.schedule else { return };
    let name = word(schedule);
    if !name.is_some_and(|name| SCHEDULES.iter().any(|known| name == known)) {
        let all = || format!("the known schedules are: `{}`", SCHEDULES.join("`, `"));
        let help = name.and_then(|name| nearest_of(name, &SCHEDULES)).unwrap_or_else(all);
        errors.push(error(schedule, "unknown schedule", help));
    }
}

fn nearest_of(word: &Ident, known: &[&'static str]) -> Option<String> {
    nearest(&word.to_string(), known.iter().copied()).map(|meant| format!("did you mean `{meant}`?"))
}

/// Whether the value is a whole number, of any size and sign.
fn is_number(value: &Expr) -> bool {
    match value {
        Expr::Lit(literal) => matches!(literal.lit, Lit::Int(_)),
        Expr::Unary(ExprUnary { op: UnOp::Neg(_), expr, .. }) => is_number(expr),
        Expr::Group(group) => is_number(&group.expr),
        _ => false,
    }
}

/// The text of a string.
fn quoted(value: &Expr) -> Option<String> {
    match value {
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value()),
        Expr::Group(group) => quoted(&group.expr),
        _ => None,
    }
}
