//! Tests of all phases together. Tests of one phase are in its file.

mod properties;
mod snapshots;

use proc_macro2::{TokenStream, TokenTree};
use syn::DeriveInput;

use crate::pipeline;
use crate::pipeline::attribute::attach_derive;
use crate::pipeline::balance_file::from_disk;
use crate::pipeline::model::Model;

/// Parses `#[pipeline(..)] struct ..` into the struct as the derive sees it.
pub fn item(source: &str) -> DeriveInput {
    let mut item: DeriveInput = syn::parse_str(source).expect("the source is a struct");
    let args = item
        .attrs
        .extract_if(.., |attr| attr.path().is_ident("pipeline"))
        .find_map(|attr| attr.meta.require_list().ok().map(|list| list.tokens.clone()));
    let derived = attach_derive(args.unwrap_or_default(), quote::quote!(#item));
    // This keeps the spans of the source; a string would lose them.
    syn::parse2(derived).expect("the struct is still one")
}

/// The model of a struct without errors.
pub fn model(source: &str) -> Model {
    let (model, errors) = pipeline::checked(&item(source), &from_disk);
    assert!(errors.is_empty(), "{:?}", errors.in_source_order());
    model
}

/// The errors in a struct, as `line: message`, without the help. Second places are indented.
pub fn mistakes(source: &str) -> String {
    let (_, errors) = pipeline::checked(&item(source), &from_disk);
    let mut lines = String::new();
    for error in errors.in_source_order() {
        for (place, part) in error.into_iter().enumerate() {
            let message = part.to_string();
            let wrong = message.lines().next().unwrap_or_default();
            let indent = if place == 0 { "" } else { "  " };
            lines.push_str(&format!("{indent}{}: {wrong}\n", part.span().start().line));
        }
    }
    lines
}

/// The code that the derive generates for the source.
pub fn derived(source: &str) -> TokenStream {
    let item = item(source);
    pipeline::derive(quote::quote!(#item))
}

/// The number of errors in the tokens.
pub fn compile_errors(tokens: TokenStream) -> usize {
    tokens
        .into_iter()
        .map(|token| match token {
            TokenTree::Group(group) => compile_errors(group.stream()),
            TokenTree::Ident(ident) if ident == "compile_error" => 1,
            _ => 0,
        })
        .sum()
}
