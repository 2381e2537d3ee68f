//! Rules of the layers as children with names and parameters.

use quote::ToTokens;
use syn::{GenericArgument, PathArguments, Type};

use crate::errors::{Errors, error, error_at_both};
use crate::model::{Model, bare};

/// A name is one segment of a parameter path. `#[layer(name = "down.0")] down: Linear`
pub fn names_are_paths(model: &Model, errors: &mut Errors) {
    for layer in &model.layers {
        let child = layer.child();
        let wrong = match child.as_str() {
            "" => "the name of a layer cannot be empty",
            name if name.contains('.') => "the name of a layer cannot contain a `.`",
            _ => continue,
        };
        let help = "it is one segment of parameter paths such as `encode1.weight`";
        errors.push(error(layer.child_tokens(), wrong, help));
    }
}

/// Two layers have two names, or one would load the other's parameters.
///
/// `down: Linear, #[layer(name = "down")] up: Linear`
pub fn names_differ(model: &Model, errors: &mut Errors) {
    for (index, layer) in model.layers.iter().enumerate() {
        let same = |other: &&crate::model::Layer| other.child() == layer.child();
        if let Some(first) = model.layers[..index].iter().find(same) {
            let child = layer.child();
            errors.push(error_at_both(
                layer.child_tokens(),
                format!("two layers are named `{child}`: module with duplicate children is not supported"),
                "give one of them another name: `#[layer(name = \"..\")]`",
                first.child_tokens(),
                format!("the first layer named `{child}` is here"),
            ));
        }
    }
}

/// One stage owns a layer and its parameters. `head: Arc<Linear>`
///
/// Only by syntax, for a better message: behind an alias it is still no `Layer`.
pub fn layers_are_owned(model: &Model, errors: &mut Errors) {
    for layer in &model.layers {
        let ty = layer.shape.layer().unwrap_or(&layer.ty);
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

/// What is behind the pointer, if it is one that others can hold too.
fn shared(ty: &Type) -> Option<&Type> {
    let path = match bare(ty) {
        Type::Reference(reference) => return Some(&reference.elem),
        Type::Path(path) => &path.path,
        _ => return None,
    };
    let last = path.segments.last()?;
    let PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
    match arguments.args.first()? {
        GenericArgument::Type(ty) if last.ident == "Rc" || last.ident == "Arc" => Some(ty),
        _ => None,
    }
}
