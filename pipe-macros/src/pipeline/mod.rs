//! `#[pipeline]`: the phases that turn an annotated struct into stages.
//!
//! Each module imports only from those before it in this list, and from `support`
//! (`tests/imports.rs` checks that):
//!
//! 1. `attribute` puts the private derive on the struct;
//! 2. `declaration` has the types for the struct as it is written;
//! 3. `parse` reads the struct and its attributes into a declaration;
//! 4. `balance_file` adds the stages that a file lists;
//! 5. `model` sorts a declaration into layers, plain fields and skips;
//! 6. `plan` finds the stages and the route of each skip;
//! 7. `prove` places the annotated schedule on the stages and proves its steps;
//! 8. `check` has the rules, some of which use `plan` and `prove`;
//! 9. `expand` writes the generated code.

mod attribute;
mod balance_file;
mod check;
mod declaration;
mod expand;
mod model;
mod parse;
mod plan;
mod prove;
#[cfg(test)]
mod tests;

pub use attribute::attach_derive;

use proc_macro2::TokenStream;
use syn::DeriveInput;

use crate::support::depth;
use crate::support::errors::Errors;
use balance_file::{ReadFile, from_disk};
use model::Model;

/// Generates everything that `#[pipeline]` adds beside the struct. If there are errors, it
/// generates the errors and stubs.
pub fn derive(item: TokenStream) -> TokenStream {
    derive_with(item, &from_disk)
}

/// Does what [`derive`] does, with balance files that `read_file` gives.
pub fn derive_with(item: TokenStream, read_file: ReadFile<'_>) -> TokenStream {
    let item = match depth::parse::<DeriveInput>(item) {
        Ok(item) => item,
        Err(error) => return error.into_compile_error(),
    };
    let (model, errors) = checked(&item, read_file);
    if errors.is_empty() {
        return expand::expand(&model);
    }
    let mut tokens = errors.into_compile_errors();
    tokens.extend(expand::stubs(model));
    tokens
}

/// The part of the model that could be read, and the errors.
pub fn checked(item: &DeriveInput, read_file: ReadFile<'_>) -> (Model, Errors) {
    let mut errors = Errors::default();
    let mut declaration = parse::parse(item, &mut errors);
    balance_file::apply(&mut declaration, read_file, &mut errors);
    let model = model::model(declaration);
    check::check(&model, &mut errors);
    if errors.is_empty() {
        prove::prove(&model, &mut errors);
    }
    (model, errors)
}
