//! The annotated settings as the defaults of a run.

use pipe_schedule::Method;
use proc_macro2::{Literal, TokenStream};
use quote::{ToTokens, format_ident, quote_spanned};

use super::here;
use crate::pipeline::model::Model;
use crate::pipeline::parse::{Checkpoint, method, whole_number};

/// The value of `DEFAULTS`.
pub fn defaults(model: &Model) -> TokenStream {
    let chunks = model.settings.chunks.as_ref().and_then(whole_number);
    let chunks = option(chunks.map(Literal::usize_unsuffixed));
    let checkpoint = model.settings.checkpoint.as_ref().and_then(Checkpoint::named);
    let checkpoint = option(checkpoint.map(variant));
    let schedule = model.settings.schedule.as_ref().and_then(method);
    let schedule = option(schedule.map(schedule_variant));
    quote_spanned!(here()=> __rt::Defaults { chunks: #chunks, checkpoint: #checkpoint, schedule: #schedule })
}

fn option(value: Option<impl ToTokens>) -> TokenStream {
    match value {
        Some(value) => quote_spanned!(here()=> ::core::option::Option::Some(#value)),
        None => quote_spanned!(here()=> ::core::option::Option::None),
    }
}

fn schedule_variant(method: Method) -> TokenStream {
    // `Debug` gives the variant's name.
    let variant = format_ident!("{}", format!("{method:?}"), span = here());
    quote_spanned!(here()=> __rt::Method::#variant)
}

fn variant(checkpoint: Checkpoint) -> TokenStream {
    match checkpoint {
        Checkpoint::Always => quote_spanned!(here()=> __rt::Checkpoint::Always),
        Checkpoint::ExceptLast => quote_spanned!(here()=> __rt::Checkpoint::ExceptLast),
        Checkpoint::Never => quote_spanned!(here()=> __rt::Checkpoint::Never),
    }
}
