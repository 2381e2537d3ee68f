//! Recognizes repeated and optional layers by the syntax of a field's type.

use proc_macro2::Ident;
use syn::{GenericArgument, PathArguments, Type};

use crate::pipeline::declaration::Shape;

/// Determines whether a field of this type holds one layer, an array or a `Vec`.
pub fn shape(ty: &Type) -> Shape {
    match bare(ty) {
        Type::Array(array) => Shape::Array { layer: array.elem.clone(), len: Box::new(array.len.clone()) },
        ty => match generic(ty) {
            Some((name, layer)) if name == "Vec" => Shape::List { layer: Box::new(layer.clone()) },
            Some((name, layer)) if name == "Option" => Shape::Optional { layer: Box::new(layer.clone()) },
            _ => Shape::Single,
        },
    }
}

/// The type without its parentheses, or the invisible ones of a `macro_rules!` fragment.
pub fn bare(ty: &Type) -> &Type {
    match ty {
        Type::Paren(inner) => bare(&inner.elem),
        Type::Group(inner) => bare(&inner.elem),
        _ => ty,
    }
}

/// `Vec` and `L` of `std::vec::Vec<L>`.
fn generic(ty: &Type) -> Option<(&Ident, &Type)> {
    let Type::Path(path) = ty else { return None };
    let last = path.path.segments.last()?;
    let PathArguments::AngleBracketed(arguments) = &last.arguments else {
        return None;
    };
    match arguments.args.first()? {
        GenericArgument::Type(argument) => Some((&last.ident, argument)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use quote::ToTokens;

    use super::*;

    fn shape_of(ty: &str) -> String {
        match shape(&syn::parse_str(ty).unwrap()) {
            Shape::Single => "single".to_owned(),
            Shape::Array { layer, len } => format!("{} x {}", layer.to_token_stream(), len.to_token_stream()),
            Shape::List { layer } => format!("{} x ?", layer.to_token_stream()),
            Shape::Optional { layer } => format!("{} or none", layer.to_token_stream()),
        }
    }

    #[test]
    fn arrays_and_vecs_repeat_a_layer() {
        assert_eq!(shape_of("[Block; N]"), "Block x N");
        assert_eq!(shape_of("([Block; 2])"), "Block x 2");
        assert_eq!(shape_of("std::vec::Vec<Block>"), "Block x ?");
    }

    #[test]
    fn an_option_is_a_layer_that_may_be_absent() {
        assert_eq!(shape_of("(Option<Block>)"), "Block or none");
        assert_eq!(shape_of("::core::option::Option<nn::Linear>"), "nn :: Linear or none");
    }

    #[test]
    fn anything_else_is_a_single_layer() {
        for ty in ["Block", "nn::Linear", "Vector<Block>", "Vec", "(Block, Block)", "fn()", "&'static [Block]"] {
            assert_eq!(shape_of(ty), "single", "{ty}");
        }
    }
}
