//! Rules of the settings.

use crate::errors::{Errors, error};
use crate::model::Model;
use crate::names::nearest;
use crate::parse::{Checkpoint, whole_number, word};

const SETTINGS: [&str; 7] = ["input", "output", "chunks", "checkpoint", "schedule", "allow", "crate"];

/// The schedules that there are.
const SCHEDULES: [&str; 1] = ["gpipe"];

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
    if whole_number(chunks).is_none_or(|number| number == 0) {
        errors.push(error(
            chunks,
            "number of chunks must be positive integer",
            "write a literal number such as `chunks = 8`; `.chunks(n)` on the pipe takes any value",
        ));
    }
}

/// The mode is one of three. `#[pipeline(checkpoint = sometimes)]`
pub fn checkpoint_is_known(model: &Model, errors: &mut Errors) {
    let Some(checkpoint) = &model.settings.checkpoint else { return };
    if Checkpoint::named(checkpoint).is_none() {
        errors.push(error(
            checkpoint,
            "checkpoint is not one of 'always', 'except_last', or 'never'",
            "write one of them without quotes: `checkpoint = except_last`",
        ));
    }
}

/// The schedule is one that exists. `#[pipeline(schedule = gpip)]`
pub fn schedule_is_known(model: &Model, errors: &mut Errors) {
    let Some(schedule) = &model.settings.schedule else { return };
    let is_known = word(schedule).is_some_and(|name| SCHEDULES.iter().any(|known| name == known));
    if !is_known {
        errors.push(error(
            schedule,
            "unknown schedule",
            format!("the known schedules are: `{}`", SCHEDULES.join("`, `")),
        ));
    }
}
