//! Any text of a balance file gives code or errors from `#[pipeline]`, and never a panic. What is
//! generated is Rust.

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

/// Structs that the first files are for, and one with everything else that a layer can be: name,
/// settings, fields.
const STRUCTS: [(&str, &str, &str); 4] = [
    ("GptAdvised", "", "embed: A, early: [B; 4], late: [B; BLOCKS / 2], norm: N, head: H"),
    ("GptInFour", "chunks = 4", "embed: A, early: [B; 4], late: [B; BLOCKS / 2], norm: N, head: H"),
    ("Net", "schedule = zbv", "wide: A, narrow: [B; 4], last: C"),
    (
        "Any",
        "",
        "#[stash(a)] #[layer(name = \"0\")] one: A, #[read(m)] list: Vec<B>, maybe: Option<C>,
         #[not_a_layer] plain: u8, #[recompute(2)] #[pop(a)] four: [D; 4], #[repeat] twice: [E; 2]",
    ),
];

fuzz_target!(init: MEMORY.set_limit(64 << 20).expect("less is in use"), |text: &str| {
    // A file that names another model says little about this one.
    let named = STRUCTS.iter().find(|(name, ..)| text.contains(name));
    let (name, settings, fields) = named.unwrap_or(&STRUCTS[0]);
    let tokens = |text: String| TokenStream::from_str(&text).expect("these are tokens");
    let settings = tokens(format!("balance = \"file.toml\", {settings}"));
    let attached = pipeline::attach_derive(settings, tokens(format!("struct {name} {{ {fields} }}")));
    let generated = pipeline::derive_with(attached, &|_| Ok(text.to_owned()));
    assert!(syn::parse2::<syn::File>(generated.clone()).is_ok(), "this was generated: {generated}");
    // Each source is kept for its spans, otherwise.
    proc_macro2::extra::invalidate_current_thread_spans();
});
