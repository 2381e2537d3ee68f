//! The annotated settings as the defaults of a run.

use proc_macro2::{Literal, TokenStream};
use quote::{ToTokens, quote_spanned};

use super::here;
use crate::model::Model;
use crate::parse::{Checkpoint, whole_number};

/// The value of `DEFAULTS`.
pub fn defaults(model: &Model) -> TokenStream {
    let chunks = model.settings.chunks.as_ref().and_then(whole_number);
    let chunks = option(chunks.map(Literal::usize_unsuffixed));
    let checkpoint = model.settings.checkpoint.as_ref().and_then(Checkpoint::named);
    let checkpoint = option(checkpoint.map(variant));
    quote_spanned!(here()=> __rt::Defaults { chunks: #chunks, checkpoint: #checkpoint })
}

fn option(value: Option<impl ToTokens>) -> TokenStream {
    match value {
        Some(value) => quote_spanned!(here()=> ::core::option::Option::Some(#value)),
        None => quote_spanned!(here()=> ::core::option::Option::None),
    }
}

fn variant(checkpoint: Checkpoint) -> TokenStream {
    match checkpoint {
        Checkpoint::Always => quote_spanned!(here()=> __rt::Checkpoint::Always),
        Checkpoint::ExceptLast => quote_spanned!(here()=> __rt::Checkpoint::ExceptLast),
        Checkpoint::Never => quote_spanned!(here()=> __rt::Checkpoint::Never),
    }
}
