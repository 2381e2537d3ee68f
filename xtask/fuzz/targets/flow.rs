//! Any item gets code or errors from `#[derive(Flow)]`, and never a panic. What is generated is
//! Rust.

#![no_main]
#![allow(dead_code)]

#[path = "../../../pipe-macros/src/derive_flow.rs"]
mod derive_flow;
#[path = "../../../pipe-macros/src/support/mod.rs"]
mod support;

use std::str::FromStr;

use libfuzzer_sys::fuzz_target;
use pipe_fuzz::{MEMORY, is_refused};
use proc_macro2::TokenStream;
use support::depth;
use syn::{DeriveInput, File};

fuzz_target!(init: MEMORY.set_limit(64 << 20).expect("less is in use"), |text: &str| {
    if let Ok(tokens) = TokenStream::from_str(text) {
        // What is nested too deeply, the derive refuses before it reads it.
        let is_shallow = depth::parse::<TokenStream>(tokens.clone()).is_ok();
        if !is_shallow || !is_refused(syn::parse2::<DeriveInput>(tokens.clone())) {
            let generated = derive_flow::derive(tokens);
            assert!(syn::parse2::<File>(generated.clone()).is_ok(), "this was generated: {generated}");
        }
    }
    // Each source is kept for its spans, otherwise.
    proc_macro2::extra::invalidate_current_thread_spans();
});
