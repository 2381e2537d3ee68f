//! Generates `DEFAULTS`: the annotated settings as the defaults of a run.

use std::fmt::Debug;

use pipe_schedule::{Checkpoint, ScheduleKind};
use proc_macro2::{Ident, Literal, TokenStream};
use quote::{ToTokens, format_ident, quote_spanned};

use super::here;
use crate::pipeline::model::Model;
use crate::pipeline::parse::{self, schedule_kind, whole_number};

/// Generates the value of `DEFAULTS`.
pub fn defaults(model: &Model) -> TokenStream {
    let chunks = model.settings.chunks.as_ref().and_then(whole_number);
    let chunks = option(chunks.map(Literal::usize_unsuffixed));
    let checkpoint = model.settings.checkpoint.as_ref().and_then(parse::checkpoint);
    // What is marked, or a file, says what is recomputed.
    let marked = model.layers.iter().any(|layer| layer.marks.recompute.is_some())
        || model.assigned.as_ref().is_some_and(|assigned| assigned.recomputes);
    let checkpoint = checkpoint.or(marked.then_some(Checkpoint::Never));
    let checkpoint = option(checkpoint.map(checkpoint_variant));
    let schedule = model.settings.schedule.as_ref().and_then(schedule_kind);
    let schedule = option(schedule.map(schedule_variant));
    quote_spanned!(here()=> __rt::Defaults { chunks: #chunks, checkpoint: #checkpoint, schedule: #schedule })
}

fn option(value: Option<impl ToTokens>) -> TokenStream {
    match value {
        Some(value) => quote_spanned!(here()=> ::core::option::Option::Some(#value)),
        None => quote_spanned!(here()=> ::core::option::Option::None),
    }
}

fn schedule_variant(kind: ScheduleKind) -> TokenStream {
    let variant = variant(kind);
    quote_spanned!(here()=> __rt::ScheduleKind::#variant)
}

fn checkpoint_variant(mode: Checkpoint) -> TokenStream {
    let variant = variant(mode);
    quote_spanned!(here()=> __rt::Checkpoint::#variant)
}

/// The name of a variant without fields, which is its `Debug` text.
fn variant(value: impl Debug) -> Ident {
    format_ident!("{}", format!("{value:?}"), span = here())
}
