//! The phases, one after the other.

use proc_macro2::TokenStream;
use syn::DeriveInput;

use crate::errors::Errors;
use crate::{check, expand, model, parse, plan};

/// Everything `#[pipeline]` adds beside the struct; on a mistake, the errors and stubs.
pub fn derive(item: TokenStream) -> TokenStream {
    match syn::parse2::<DeriveInput>(item) {
        Ok(item) => derive_for(&item),
        Err(error) => error.into_compile_error(),
    }
}

fn derive_for(item: &DeriveInput) -> TokenStream {
    let mut errors = Errors::default();
    let model = model::model(parse::parse(item, &mut errors));
    if errors.is_empty() {
        check::check(&model, &mut errors);
    }
    if errors.is_empty() {
        return expand::expand(&model, &plan::plan(&model));
    }
    let mut tokens = errors.into_compile_errors();
    tokens.extend(expand::stubs(&model));
    tokens
}
