//! Rules for what layers add up: each sum has a slot beside the output, and layers that add to it.

use pipe_schedule::support::spelling::nearest;
use proc_macro2::Ident;

use crate::pipeline::declaration::{Outer, Shape};
use crate::pipeline::model::{Layer, Model};
use crate::support::errors::{Errors, error, error_at_both};
use crate::support::names::plain;

/// Rejects a sum that arrives nowhere: `#[pipeline] struct Net { #[sum(a)] one: One }`
///
/// If the name seems to misspell a declared one, [`misspelt_sums_suggest_a_name`] reports it.
pub fn sums_arrive_beside_the_output(model: &Model, errors: &mut Errors) {
    for (layer, name) in undeclared(model).filter(|(_, name)| meant(model, name).is_none()) {
        let (layer, name_text) = (plain(&layer.ident), plain(name));
        let slot = if model.has_devices { "Mean" } else { "Tensor" };
        errors.push(error(
            name,
            format!("`{layer}` adds to `{name_text}`, which arrives nowhere"),
            format!("declare what it is beside the output: `#[pipeline(sum({name_text}: {slot}))]`"),
        ));
    }
}

/// Rejects an unknown name that is close to that of a declared sum:
/// `#[pipeline(sum(balance: Mean))] struct Net { #[sum(balnce)] one: One }`
pub fn misspelt_sums_suggest_a_name(model: &Model, errors: &mut Errors) {
    for (layer, name) in undeclared(model) {
        let Some(meant) = meant(model, name) else { continue };
        errors.push(error(
            name,
            format!("`{}` adds to `{}`, which arrives nowhere", plain(&layer.ident), plain(name)),
            format!("did you mean `{meant}`?"),
        ));
    }
}

/// Rejects a declared sum to which no layer adds:
/// `#[pipeline(sum(a: Mean))] struct Net { one: One }`
///
/// If it is declared twice, [`sums_are_declared_once`] reports the second time.
pub fn declared_sums_are_added_to(model: &Model, errors: &mut Errors) {
    let is_unreadable = model.layers.iter().any(|layer| layer.marks.is_unreadable("sum"));
    let sums = model.settings.sums();
    for (number, sum) in sums.iter().enumerate().filter(|_| !is_unreadable) {
        let name = plain(&sum.name);
        if sums[..number].iter().any(|first| plain(&first.name) == name) {
            continue;
        }
        let is_meant = undeclared(model).any(|(_, other)| meant(model, other).is_some_and(|meant| meant == name));
        if adding(model, &name).next().is_none() && !is_meant {
            errors.push(error(
                &sum.name,
                format!("no layer adds to `{name}`"),
                format!(
                    "add to it in layers that return `(output, {name})`, with `#[sum({name})]`, or do not declare it"
                ),
            ));
        }
    }
}

/// Rejects a sum that is declared twice:
/// `#[pipeline(sum(a: Mean, a: Sum))] struct Net { #[sum(a)] one: One }`
pub fn sums_are_declared_once(model: &Model, errors: &mut Errors) {
    let sums = model.settings.sums();
    for (number, sum) in sums.iter().enumerate() {
        let is_same = |first: &&Outer| plain(&first.name) == plain(&sum.name);
        let Some(first) = sums[..number].iter().find(is_same) else { continue };
        errors.push(error_at_both(
            &sum.name,
            format!("`{}` is declared twice", plain(&sum.name)),
            "declare it once",
            &first.name,
            format!("`{}` is first declared here", plain(&first.name)),
        ));
    }
}

/// Rejects a name that one layer adds to twice: `#[sum(a, a)] one: One`
pub fn added_once_by_a_layer(model: &Model, errors: &mut Errors) {
    for layer in &model.layers {
        for (number, name) in layer.sums().iter().enumerate() {
            let Some(first) = layer.sums()[..number].iter().find(|first| plain(first) == plain(name)) else { continue };
            let text = plain(name);
            errors.push(error_at_both(
                name,
                format!("`{}` adds to `{text}` twice", plain(&layer.ident)),
                format!("add once: the layer returns `(output, {text})`"),
                first,
                format!("`{text}` is first named here"),
            ));
        }
    }
}

/// Rejects sums of optional layers, because an absent layer is the identity:
/// `#[sum(a)] gate: Option<Gate>`
pub fn optional_layers_add_nothing(model: &Model, errors: &mut Errors) {
    for layer in model.layers.iter().filter(|layer| matches!(layer.shape, Shape::Optional { .. })) {
        for name in layer.sums() {
            errors.push(error(
                name,
                format!("`{}` may be absent, and then nothing is added to `{}`", plain(&layer.ident), plain(name)),
                "add to it in a layer that is always there, or make it a `Vec` with `#[repeat]`",
            ));
        }
    }
}

/// The first mention of each name that is not declared.
fn undeclared(model: &Model) -> impl Iterator<Item = (&Layer, &Ident)> {
    let named = model.layers.iter().flat_map(|layer| layer.sums().iter().map(move |name| (layer, name)));
    let is_unknown = model.settings.is_unreadable("sum");
    let sums = model.settings.sums();
    let is_declared = move |name: &Ident| is_unknown || sums.iter().any(|sum| plain(&sum.name) == plain(name));
    let mut seen = Vec::new();
    named.filter(move |(_, name)| {
        let is_first = !seen.contains(&plain(name));
        seen.push(plain(name));
        is_first && !is_declared(name)
    })
}

/// The name that was probably meant: one that is declared.
fn meant(model: &Model, name: &Ident) -> Option<String> {
    let declared: Vec<String> = model.settings.sums().iter().map(|sum| plain(&sum.name)).collect();
    nearest(&plain(name), declared.iter().map(String::as_str)).map(str::to_owned)
}

fn adding<'m>(model: &'m Model, name: &'m str) -> impl Iterator<Item = &'m Layer> {
    model.layers.iter().filter(move |layer| layer.sums().iter().any(|other| plain(other) == name))
}
