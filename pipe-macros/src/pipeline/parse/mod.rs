//! Reads the struct and its attributes as they are written. The errors found here are errors of
//! form: an attribute that cannot be read, that is repeated, or that is on an item without layers.

mod marks;
mod settings;
mod shape;
mod values;

pub use shape::bare;
pub use values::{cheap_outputs, checkpoint, quoted, schedule_kind, whole_number, word};

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use syn::parse::ParseStream;
use syn::{Data, DeriveInput, Fields, Token};

use crate::pipeline::declaration::{Declaration, Field};
use crate::support::errors::{Errors, error};

/// Reads as much as possible, so that stubs can be generated even if there are errors.
pub fn parse(item: &DeriveInput, errors: &mut Errors) -> Declaration {
    no_marks_on_the_struct(item, errors);
    Declaration {
        ident: item.ident.clone(),
        vis: item.vis.clone(),
        generics: item.generics.clone(),
        settings: settings::parse(item, errors),
        has_devices: has_devices(item),
        fields: named_fields(item, errors),
        assigned: None,
    }
}

fn has_devices(item: &DeriveInput) -> bool {
    match &item.data {
        Data::Struct(data) => data.fields.iter().flat_map(|field| &field.attrs).any(marks::is_device),
        _ => false,
    }
}

fn named_fields(item: &DeriveInput, errors: &mut Errors) -> Vec<Field> {
    let (keyword, what): (&dyn ToTokens, _) = match &item.data {
        Data::Struct(data) => match &data.fields {
            Fields::Named(fields) => {
                return fields.named.iter().filter_map(|field| named_field(field, errors)).collect();
            }
            Fields::Unnamed(fields) => (fields, "a tuple struct"),
            Fields::Unit => (&item.ident, "a unit struct"),
        },
        Data::Enum(data) => (&data.enum_token, "an enum"),
        Data::Union(data) => (&data.union_token, "a union"),
    };
    errors.push(error(
        keyword,
        format!("`#[pipeline]` needs a struct with named fields, and `{}` is {what}", item.ident),
        format!("write `struct {} {{ layer: Layer }}`, one field per layer", item.ident),
    ));
    Vec::new()
}

fn named_field(field: &syn::Field, errors: &mut Errors) -> Option<Field> {
    Some(Field {
        ident: field.ident.clone()?,
        vis: field.vis.clone(),
        ty: field.ty.clone(),
        shape: shape::shape(&field.ty),
        marks: marks::parse(&field.attrs, errors),
    })
}

/// Rejects attributes of fields on the struct: `#[device("cpu")] #[pipeline] struct Model { .. }`
fn no_marks_on_the_struct(item: &DeriveInput, errors: &mut Errors) {
    for attr in item.attrs.iter().filter(|attr| marks::is_mark(attr)) {
        let word: TokenStream = attr.path().to_token_stream();
        errors.push(error(
            &word,
            format!("`#[{word}]` stands on the struct, but it belongs on a field"),
            "move it to the layer that it is meant for",
        ));
    }
}

/// Skips what cannot be read, up to the next comma.
fn skip_to_comma(tokens: ParseStream) {
    while !tokens.is_empty() && !tokens.peek(Token![,]) {
        // A token tree can always be read if the stream is not empty.
        if tokens.parse::<TokenTree>().is_err() {
            return;
        }
    }
}
