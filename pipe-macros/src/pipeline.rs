//! The phases, one after the other.

use proc_macro2::TokenStream;
use syn::DeriveInput;

use crate::errors::Errors;
use crate::model::Model;
use crate::{balance, check, expand, model, parse, schedule};

/// Everything `#[pipeline]` adds beside the struct; on a mistake, the errors and stubs.
pub fn derive(item: TokenStream) -> TokenStream {
    let item = match syn::parse2::<DeriveInput>(item) {
        Ok(item) => item,
        Err(error) => return error.into_compile_error(),
    };
    let (model, errors) = checked(&item);
    if errors.is_empty() {
        return expand::expand(&model);
    }
    let mut tokens = errors.into_compile_errors();
    tokens.extend(expand::stubs(model));
    tokens
}

/// The model, as much of it as could be read, and its mistakes.
pub fn checked(item: &DeriveInput) -> (Model, Errors) {
    let mut errors = Errors::default();
    let mut declaration = parse::parse(item, &mut errors);
    balance::apply(&mut declaration, &mut errors);
    let model = model::model(declaration);
    check::check(&model, &mut errors);
    if errors.is_empty() {
        schedule::prove(&model, &mut errors);
    }
    (model, errors)
}
