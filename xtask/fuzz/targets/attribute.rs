//! Any source gets code or errors from `#[pipeline]`, and never a panic. What is generated is Rust.

#![no_main]
#![allow(dead_code, unused_imports)]

#[path = "../../../pipe-macros/src/pipeline/mod.rs"]
mod pipeline;
#[path = "../../../pipe-macros/src/support/mod.rs"]
mod support;

use std::str::FromStr;

use libfuzzer_sys::fuzz_target;
use pipe_fuzz::MEMORY;
use proc_macro2::TokenStream;
use quote::ToTokens;
use syn::{Attribute, Data, Item, Member};

fuzz_target!(init: MEMORY.set_limit(64 << 20).expect("less is in use"), |text: &str| {
    if let Ok(tokens) = TokenStream::from_str(text) {
        match syn::parse2::<syn::File>(tokens.clone()) {
            Ok(file) => file.items.into_iter().for_each(expand_item),
            // The attribute stands on something that is no item.
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

fn expand(settings: TokenStream, item: TokenStream) {
    let attached = pipeline::attach_derive(settings, item);
    // The compiler removes what is not for the derive, and refuses what is no item. It refuses a field
    // `_`, too, which syn reads.
    let Ok(item) = syn::parse2::<syn::DeriveInput>(attached.clone()) else { return };
    if matches!(item.data, Data::Struct(data) if data.fields.members().any(|name| is_underscore(&name))) {
        return;
    }
    let generated = pipeline::derive(attached);
    assert!(syn::parse2::<syn::File>(generated.clone()).is_ok(), "this was generated: {generated}");
}

fn is_underscore(name: &Member) -> bool {
    matches!(name, Member::Named(name) if name == "_")
}
