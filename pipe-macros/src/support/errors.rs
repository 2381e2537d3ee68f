//! Collects mistakes, so that all of them are reported at once.

use std::fmt::Display;

use proc_macro2::{LineColumn, TokenStream};
use quote::ToTokens;

/// Mistakes found so far.
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

    /// Converts each mistake into a `compile_error!` per place, in source order.
    pub fn into_compile_errors(self) -> TokenStream {
        self.in_source_order().into_iter().map(syn::Error::into_compile_error).collect()
    }

    /// Mistakes in the order of their places in the source.
    pub fn in_source_order(self) -> Vec<syn::Error> {
        let mut errors = self.0;
        errors.sort_by_key(position);
        errors
    }
}

/// An error that says what is wrong at `place`, and how to fix it.
pub fn error(place: impl ToTokens, wrong: impl Display, help: impl Display) -> syn::Error {
    syn::Error::new_spanned(place, with_help(wrong, help))
}

/// An error with two places. `there` says what is at the `other` one.
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

/// Joins an error's message and its help, which rustc prints as one block.
pub fn with_help(wrong: impl Display, help: impl Display) -> String {
    format!("{wrong}\n\nhelp: {help}")
}

fn position(error: &syn::Error) -> LineColumn {
    error.span().start()
}
