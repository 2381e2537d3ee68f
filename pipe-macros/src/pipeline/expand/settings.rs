//! Generates `DEFAULTS`: the annotated settings as the defaults of a run.

use std::fmt::Debug;

use pipe_schedule::{CheapOutputs, Checkpoint, ScheduleKind};
use proc_macro2::{Ident, Literal, TokenStream};
use quote::{ToTokens, format_ident, quote_spanned};

use super::here;
use crate::pipeline::model::Model;
use crate::pipeline::parse::{self, schedule_kind, whole_number};

/// Generates the value of `DEFAULTS`.
pub fn defaults(model: &Model) -> TokenStream {
    let settings = &model.settings;
    let chunks = settings.chunks.as_ref().and_then(whole_number).map(Literal::usize_unsuffixed);
    let checkpoint = settings.checkpoint.as_ref().and_then(parse::checkpoint);
    // What is marked, or a file, says what is recomputed.
    let marked = model.layers.iter().any(|layer| layer.marks.recompute.is_some())
        || model.assigned.as_ref().is_some_and(|assigned| assigned.recomputes);
    let checkpoint = checkpoint.or(marked.then_some(Checkpoint::Never));
    let cheap_outputs = settings.cheap_outputs.as_ref().and_then(parse::cheap_outputs);
    let schedule = settings.schedule.as_ref().and_then(schedule_kind);
    let set: Vec<TokenStream> = [
        chunks.map(|chunks| some("chunks", chunks)),
        checkpoint.map(|mode| some("checkpoint", checkpoint_variant(mode))),
        cheap_outputs.map(|outputs| some("cheap_outputs", cheap_outputs_variant(outputs))),
        schedule.map(|kind| some("schedule", schedule_variant(kind))),
    ]
    .into_iter()
    .flatten()
    .collect();
    match set.len() {
        0 => quote_spanned!(here()=> __rt::Defaults::NONE),
        4 => quote_spanned!(here()=> __rt::Defaults { #(#set),* }),
        _ => quote_spanned!(here()=> __rt::Defaults { #(#set,)* ..__rt::Defaults::NONE }),
    }
}

/// Generates `name: Some(value)`.
fn some(name: &str, value: impl ToTokens) -> TokenStream {
    let name = format_ident!("{name}", span = here());
    quote_spanned!(here()=> #name: ::core::option::Option::Some(#value))
}

fn schedule_variant(kind: ScheduleKind) -> TokenStream {
    let variant = variant(kind);
    quote_spanned!(here()=> __rt::ScheduleKind::#variant)
}

fn checkpoint_variant(mode: Checkpoint) -> TokenStream {
    let variant = variant(mode);
    quote_spanned!(here()=> __rt::Checkpoint::#variant)
}

fn cheap_outputs_variant(outputs: CheapOutputs) -> TokenStream {
    let variant = variant(outputs);
    quote_spanned!(here()=> __rt::CheapOutputs::#variant)
}

/// The name of a variant without fields, which is its `Debug` text.
fn variant(value: impl Debug) -> Ident {
    format_ident!("{}", format!("{value:?}"), span = here())
}
