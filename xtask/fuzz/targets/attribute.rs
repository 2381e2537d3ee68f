//! Any source gets code or errors from `#[pipeline]`, and never a panic. What is generated is Rust.

#![no_main]
#![allow(dead_code, unused_imports)]

#[path = "expansion.rs"]
mod expansion;
#[path = "../../../pipe-macros/src/pipeline/mod.rs"]
mod pipeline;
#[path = "../../../pipe-macros/src/support/mod.rs"]
mod support;

use std::str::FromStr;

use expansion::expand;
use libfuzzer_sys::fuzz_target;
use pipe_fuzz::MEMORY;
use proc_macro2::TokenStream;
use quote::ToTokens;
use support::depth;
use syn::{Attribute, Item};

fuzz_target!(init: MEMORY.set_limit(64 << 20).expect("less is in use"), |text: &str| {
    if let Ok(tokens) = TokenStream::from_str(text) {
        match depth::parse::<syn::File>(tokens.clone()) {
            Ok(file) => file.items.into_iter().for_each(expand_item),
            // The attribute stands on something that is no item, or is nested too deeply.
            Err(_) => expand(TokenStream::new(), tokens),
        }
    }
    // Each source is kept for its spans, otherwise.
    proc_macro2::extra::invalidate_current_thread_spans();
});

/// Expands the item with the settings of its `#[pipeline(..)]`.
fn expand_item(mut item: Item) {
    let attributes: &mut Vec<Attribute> = match &mut item {
        Item::Struct(item) => &mut item.attrs,
        Item::Enum(item) => &mut item.attrs,
        Item::Fn(item) => &mut item.attrs,
        _ => return,
    };
    let Some(place) = attributes.iter().position(|attribute| attribute.path().is_ident("pipeline")) else { return };
    let settings = attributes.remove(place).meta.require_list().map(|list| list.tokens.clone());
    expand(settings.unwrap_or_default(), item.into_token_stream());
}
