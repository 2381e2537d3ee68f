//! Errors, collected until the phase that finds them ends.

use std::fmt::Display;

use proc_macro2::{LineColumn, TokenStream};
use quote::ToTokens;

/// The errors found so far.
#[derive(Default)]
pub struct Errors(Vec<syn::Error>);

impl Errors {
    pub fn push(&mut self, error: syn::Error) {
        self.0.push(error);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Generates one `compile_error!` per error, in source order.
    pub fn into_compile_errors(self) -> TokenStream {
        self.in_source_order().into_iter().map(syn::Error::into_compile_error).collect()
    }

    /// The errors in source order.
    pub fn in_source_order(self) -> Vec<syn::Error> {
        let mut errors = self.0;
        errors.sort_by_key(position);
        errors
    }
}

/// Makes an error at `place`, with a fix.
pub fn error(place: impl ToTokens, wrong: impl Display, help: impl Display) -> syn::Error {
    syn::Error::new_spanned(place, with_help(wrong, help))
}

/// Makes an error with two places; `there` says what is at the other one.
pub fn error_at_both(
    place: impl ToTokens,
    wrong: impl Display,
    help: impl Display,
    other: impl ToTokens,
    there: impl Display,
) -> syn::Error {
    let mut both = error(place, wrong, help);
    both.combine(syn::Error::new_spanned(other, there));
    both
}

/// Joins a message and its fix, so that rustc prints them as one block.
pub fn with_help(wrong: impl Display, help: impl Display) -> String {
    format!("{wrong}\n\nhelp: {help}")
}

/// Whether an error has a fix already.
pub fn says_what_to_do(error: &syn::Error) -> bool {
    error.to_string().contains("\n\nhelp: ")
}

fn position(error: &syn::Error) -> LineColumn {
    error.span().start()
}
