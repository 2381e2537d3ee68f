//! The `#[pipeline]` attribute: a model's stages, devices and skips, written on the fields of a
//! struct and checked at compile time.
//!
//! The phases run in the order of this picture. `parse` reports what it cannot read and goes on
//! with the rest, `check` reports every broken rule in what was read, and `expand` runs only if
//! there was no mistake, so it cannot fail.
//!
//! ```text
//! #[pipeline] ─ attribute ─▶ struct with a derive ─ parse, balance_file ─▶ Declaration
//!     ─ model ─▶ Model ─ check, prove ─▶ Model without mistakes
//!     ─ plan ─▶ Plan ─ expand ─▶ items beside the struct
//! ```
#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod derive_flow;
mod pipeline;
mod support;

use proc_macro::TokenStream;

/// Makes a struct whose fields are layers a pipelined model.
///
/// `#[pipeline(input = T, output = T, chunks = N, checkpoint = always|except_last|never,
/// schedule = S, balance = "file", allow(..), crate = path)]`, all optional.
///
/// Layers run in the order of the fields. On a field:
///
/// | attribute | meaning |
/// |---|---|
/// | `#[device("cuda:0")]` | opens a stage on that device, which holds until the next one |
/// | `#[stage]` | opens a stage on the same device |
/// | `#[devices("cuda:0", "cuda:1")]` | spreads an array or `Vec` of layers over stages |
/// | `#[repeat]` | runs an array or `Vec` of layers in order, as one layer |
/// | `#[stash(a, b = input, c = output, d = tied)]` | keeps a value for a later layer |
/// | `#[pop(a)]` | takes a kept value beside the input: `(input, a)` |
/// | `#[layer(name = "..")]` | the layer's name in parameter paths |
/// | `#[not_a_layer]` | a plain field |
///
/// Some things work but are mistakes more often than not. They are warnings, and `allow(..)` names
/// those that are meant: `single_stage`, `short_skip`, `except_last_of_one_chunk`,
/// `name_differs_by_case`.
#[proc_macro_attribute]
pub fn pipeline(args: TokenStream, item: TokenStream) -> TokenStream {
    pipeline::attach_derive(args.into(), item.into()).into()
}

/// What [`macro@pipeline`] puts on the struct: a derive sees the fields that `#[cfg]` left.
#[doc(hidden)]
#[proc_macro_derive(__Pipeline, attributes(__pipeline, device, devices, stage, repeat, stash, pop, layer, not_a_layer))]
pub fn derive_pipeline(item: TokenStream) -> TokenStream {
    pipeline::derive(item.into()).into()
}

/// Lets a struct flow through a pipeline, if its fields do: across stage boundaries, split into
/// micro-batches at the input and joined at the output.
///
/// `#[flow(crate = path)]` says where the runtime is, if it was renamed.
#[proc_macro_derive(Flow, attributes(flow))]
pub fn derive_flow(item: TokenStream) -> TokenStream {
    derive_flow::derive(item.into()).into()
}
