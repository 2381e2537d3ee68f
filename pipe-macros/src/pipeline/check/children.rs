//! Rules for layers as children, which have names and parameters.

use std::collections::HashMap;

use quote::ToTokens;
use syn::{GenericArgument, PathArguments, Type};

use crate::pipeline::model::{Layer, Model};
use crate::pipeline::parse::bare;
use crate::support::errors::{Errors, error, error_at_both};
use crate::support::names::plain;

/// The help about names.
const NAME: &str = "it is one segment of parameter paths such as `encode1.weight`";

/// The methods of a model's variables, which a layer's method must not hide.
const METHODS_OF_VARS: [&str; 7] = ["var_store", "devices", "select", "freeze", "unfreeze", "save", "load"];

/// Rejects a name with a `.`, because a name is one segment of a parameter path:
/// `#[layer(name = "down.0")] down: Linear`
pub fn names_are_one_segment(model: &Model, errors: &mut Errors) {
    for layer in model.layers.iter().filter(|layer| layer.child().contains('.')) {
        errors.push(error(layer.child_tokens(), "the name of a layer cannot contain a `.`", NAME));
    }
}

/// Rejects an empty name: `#[layer(name = "")] down: Linear`
pub fn names_are_not_empty(model: &Model, errors: &mut Errors) {
    for layer in model.layers.iter().filter(|layer| layer.child().is_empty()) {
        errors.push(error(layer.child_tokens(), "the name of a layer cannot be empty", NAME));
    }
}

/// Rejects a layer whose generated method would hide a method of the variables:
///
/// `#[device("cpu")] save: Linear`
pub fn names_hide_no_method(model: &Model, errors: &mut Errors) {
    for layer in model.layers.iter().filter(|_| model.has_devices) {
        let name = plain(&layer.ident);
        if METHODS_OF_VARS.contains(&name.as_str()) {
            errors.push(error(
                &layer.ident,
                format!("layer `{name}` would hide `{name}()` of the variables"),
                format!("call the field otherwise; `#[layer(name = \"{name}\")]` keeps the name in parameter paths"),
            ));
        }
    }
}

/// Rejects two layers with one name, because one would load the parameters of the other:
///
/// `down: Linear, #[layer(name = "down")] up: Linear`
pub fn names_differ(model: &Model, errors: &mut Errors) {
    let mut firsts: HashMap<String, &Layer> = HashMap::new();
    for layer in model.layers.iter().filter(|layer| !layer.marks.is_unreadable("layer")) {
        let child = layer.child();
        if let Some(first) = firsts.get(&child) {
            errors.push(error_at_both(
                layer.child_tokens(),
                format!("two layers are named `{child}`: module with duplicate children is not supported"),
                "give one of them another name: `#[layer(name = \"..\")]`",
                first.child_tokens(),
                format!("the first layer named `{child}` is here"),
            ));
        } else {
            firsts.insert(child, layer);
        }
    }
}

/// Rejects a layer behind a shared pointer, because one stage owns a layer and its parameters:
/// `head: Arc<Linear>`
///
/// This looks at the syntax of the type, for a better message. A pointer behind an alias is still
/// not a `Layer`.
pub fn layers_are_owned(model: &Model, errors: &mut Errors) {
    for (layer, ty) in layer_types(model) {
        if let Some(owned) = shared(ty) {
            errors.push(error(
                ty,
                format!(
                    "layer `{}` is shared: module with duplicate parameters on distinct devices is not supported",
                    layer.ident,
                ),
                format!("let the struct own it: `{}`", owned.to_token_stream()),
            ));
        }
    }
}

/// Rejects a borrowed layer, because the model owns its layers: `head: &'static Linear`
pub fn layers_are_not_borrowed(model: &Model, errors: &mut Errors) {
    for (layer, ty) in layer_types(model) {
        if let Type::Reference(reference) = bare(ty) {
            errors.push(error(
                ty,
                format!("layer `{}` is borrowed, so others can use its parameters too", layer.ident),
                format!("let the struct own it: `{}`", reference.elem.to_token_stream()),
            ));
        }
    }
}

/// The types of the layers; for repeated and optional layers, the type of one of them.
fn layer_types(model: &Model) -> impl Iterator<Item = (&Layer, &Type)> {
    model.layers.iter().map(|layer| (layer, layer.shape.layer().unwrap_or(&layer.ty)))
}

/// The type that the pointer points to, if the pointer can be shared.
fn shared(ty: &Type) -> Option<&Type> {
    let Type::Path(path) = bare(ty) else { return None };
    let last = path.path.segments.last()?;
    let PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
    match arguments.args.first()? {
        GenericArgument::Type(ty) if last.ident == "Rc" || last.ident == "Arc" => Some(ty),
        _ => None,
    }
}
