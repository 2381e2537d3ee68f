//! Rules for the names and the ownership of layers.

use std::collections::HashMap;

use quote::ToTokens;
use syn::{GenericArgument, PathArguments, Type};

use crate::pipeline::model::{Layer, Model};
use crate::pipeline::parse::bare;
use crate::support::errors::{Errors, error, error_at_both};
use crate::support::names::plain;

/// Help for all rules about a layer's name.
const NAME: &str = "it is one segment of parameter paths such as `encode1.weight`";

/// Methods of the variables of a model with devices, which a layer's method could hide.
const METHODS_OF_VARS: [&str; 4] = ["var_store", "devices", "save", "load"];

/// A layer's name is one segment of a parameter path, so it has no `.`.
///
/// `#[layer(name = "down.0")] down: Linear`
pub fn names_are_one_segment(model: &Model, errors: &mut Errors) {
    for layer in model.layers.iter().filter(|layer| layer.child().contains('.')) {
        errors.push(error(layer.child_tokens(), "the name of a layer cannot contain a `.`", NAME));
    }
}

/// A layer's name is not empty. `#[layer(name = "")] down: Linear`
pub fn names_are_not_empty(model: &Model, errors: &mut Errors) {
    for layer in model.layers.iter().filter(|layer| layer.child().is_empty()) {
        errors.push(error(layer.child_tokens(), "the name of a layer cannot be empty", NAME));
    }
}

/// A layer of a model with devices does not hide a method of its variables, such as `save`.
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

/// Two layers have different names, or one would load the other's parameters.
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

/// A stage owns its layers and their parameters, so a layer is not an `Rc` or an `Arc`.
///
/// `head: Arc<Linear>`
///
/// This looks at the syntax alone, for a better message. Behind an alias, rustc reports that the
/// type is not a `Layer`.
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

/// A model owns its layers, so a layer is not a reference. `head: &'static Linear`
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

/// Layers with their types. For repeated layers, it is the type of one of them.
fn layer_types(model: &Model) -> impl Iterator<Item = (&Layer, &Type)> {
    model.layers.iter().map(|layer| (layer, layer.shape.layer().unwrap_or(&layer.ty)))
}

/// Returns the type behind an `Rc` or an `Arc`.
fn shared(ty: &Type) -> Option<&Type> {
    let Type::Path(path) = bare(ty) else { return None };
    let last = path.path.segments.last()?;
    let PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
    match arguments.args.first()? {
        GenericArgument::Type(ty) if last.ident == "Rc" || last.ident == "Arc" => Some(ty),
        _ => None,
    }
}
