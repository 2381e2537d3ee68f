//! Rules for the places of attributes.

use crate::pipeline::declaration::Shape;
use crate::pipeline::model::Model;
use crate::support::errors::{Errors, error, error_at_both};
use crate::support::names::plain;

/// The attributes that the rules in `devices` report.
const DEVICE_WORDS: [&str; 3] = ["device", "devices", "stage"];

/// The names of local variables in generated code.
const LOCALS: [&str; 14] = [
    "x", "cx", "io", "graph", "layers", "layer", "number", "element", "sums", "reading", "vars", "devices", "path",
    "len",
];

const LOCAL_PREFIXES: [&str; 8] = ["flow_", "port_", "skip_", "lent_", "hop_", "sum_", "each_", "share_"];

/// Whether generated code has a local variable of this name.
pub fn is_local(model: &Model, name: &str) -> bool {
    let of_field = |field: &str| {
        // The field itself, or one of its parts.
        let part = name.strip_prefix(field).and_then(|rest| rest.strip_prefix('_'));
        name == field || part.is_some_and(|part| part.trim_end_matches('_').bytes().all(|byte| byte.is_ascii_digit()))
    };
    LOCALS.contains(&name)
        || LOCAL_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || model.field_names().any(|field| of_field(&plain(field)))
}

/// Rejects attributes of layers on a plain field:
///
/// `#[not_a_layer] #[stash(a)] config: Config`
pub fn plain_fields_say_nothing_about_layers(model: &Model, errors: &mut Errors) {
    for field in &model.plain_fields {
        let Some(not_a_layer) = &field.marks.not_a_layer else { continue };
        for word in field.marks.words_for_layers() {
            if !DEVICE_WORDS.iter().any(|device_word| word == device_word) {
                errors.push(error_at_both(
                    word,
                    format!("`#[{word}]` is for layers, and `{}` is not one", field.ident),
                    format!("remove `#[{word}]`, or `#[not_a_layer]`"),
                    &not_a_layer.word,
                    "it is said here that the field is not a layer",
                ));
            }
        }
    }
}

/// Rejects a const parameter with the name of a field or of a local variable, because rustc would
/// take the local variable for the constant:
///
/// `struct Model<const blocks: usize> { #[repeat] blocks: [Block; blocks] }`
///
/// rustc reads a local that has the name of a constant as that constant.
pub fn constants_are_not_called_as_locals(model: &Model, errors: &mut Errors) {
    for param in model.generics.const_params() {
        let name = plain(&param.ident);
        if is_local(model, &name) {
            errors.push(error(
                &param.ident,
                format!("the const parameter `{name}` would be taken for a value that flows, or for a field"),
                format!("name it as constants are: `{}`", name.to_uppercase()),
            ));
        }
    }
}

/// Rejects an array without `#[repeat]` or `#[devices(..)]`, because nothing says how its layers
/// run: `blocks: [Block; 4]`
pub fn arrays_say_how_they_run(model: &Model, errors: &mut Errors) {
    for layer in &model.layers {
        let what = match layer.shape {
            Shape::Single | Shape::Optional { .. } => continue,
            Shape::Array { .. } => "an array",
            Shape::List { .. } => "a `Vec`",
        };
        let is_spread = layer.marks.devices.is_some() || layer.marks.is_unreadable("devices");
        if layer.marks.repeat.is_none() && !is_spread {
            errors.push(error(
                &layer.ident,
                format!("`{}` is {what}, and nothing says how its layers run", layer.ident),
                "say `#[repeat]` to run its layers in order or `#[devices(..)]` to spread them",
            ));
        }
    }
}

/// Rejects `#[repeat]` on a single layer: `#[repeat] head: Linear`
pub fn only_arrays_repeat(model: &Model, errors: &mut Errors) {
    for layer in model.layers.iter().filter(|layer| !layer.is_repeated()) {
        if let Some(repeat) = &layer.marks.repeat {
            errors.push(error(
                &repeat.word,
                format!("`{}` is a single layer: there is nothing to repeat", layer.ident),
                "remove `#[repeat]`, or write the type as `[Layer; N]` or `Vec<Layer>`",
            ));
        }
    }
}

/// Rejects both ways to run an array: `#[repeat] #[devices("cpu", "cpu")] blocks: [Block; 4]`
pub fn one_way_to_run_an_array(model: &Model, errors: &mut Errors) {
    for layer in model.layers.iter().filter(|layer| layer.is_repeated()) {
        if let (Some(repeat), Some(devices)) = (&layer.marks.repeat, &layer.marks.devices) {
            errors.push(error_at_both(
                &repeat.word,
                format!("`{}` is to be run as one layer and to be spread", layer.ident),
                "`#[devices(..)]` alone is enough; `#[device(..)] #[repeat]` runs them all on one",
                &devices.word,
                "it is spread here",
            ));
        }
    }
}
