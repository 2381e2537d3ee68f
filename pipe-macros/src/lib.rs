//! The `#[pipeline]` attribute: a model's stages, devices and skips, written on the fields of a
//! struct and checked at compile time.
//!
//! The phases run in the order of this diagram. `parse` reports what it cannot read and continues
//! with the rest. `check` reports every broken rule in what was read. `expand` runs only if there
//! was no mistake, so it cannot fail.
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

/// Turns a struct of layers into a pipelined model.
///
/// Each field is a layer, unless it has `#[not_a_layer]`. Data flows through the layers in the
/// order of the fields. The annotations say which layers form a stage, on which device a stage
/// runs, and which values skip layers. Every mistake in them is a compile error at its place in the
/// struct.
///
/// # Settings
///
/// All settings are optional.
///
/// | setting | meaning | default |
/// |---|---|---|
/// | `input = T`, `output = T` | types of the model's input and output | `Tensor` |
/// | `chunks = N` | maximum number of micro-batches per mini-batch | 1 |
/// | `checkpoint = M` | which micro-batches are checkpointed: `always`, `except_last` or `never` | `except_last` |
/// | `schedule = S` | order of a training step: `gpipe`, `"1f1b"`, `interleaved`, `looped_bfs`, `zb_h1`, `zb_h2`, `zbv`, `dualpipe_v`, `v_half` or `v_min` | `gpipe` |
/// | `balance = "file.toml"` | file of a measurement that says which layer runs in which stage, instead of device attributes | none |
/// | `sum(a: Mean)` | what layers add up, as a `Sum`, a `Mean` or a block's `Tensor` | none |
/// | `read(a: T)` | on a block: a value of this type that its layers read from outside | none |
/// | `allow(..)` | names of warnings to switch off | none |
/// | `crate = path` | path of the runtime crate, if it was renamed | `::pipe_runtime` |
///
/// `chunks`, `checkpoint` and `schedule` can be overridden when the pipeline is built.
///
/// # Attributes of fields
///
/// | attribute | meaning |
/// |---|---|
/// | `#[device("cuda:0")]` | opens a stage on this device, for this layer and those after it |
/// | `#[stage]` | opens a stage on the same device |
/// | `#[devices("cuda:0", "cuda:1")]` | spreads an array or a `Vec` of layers over stages, evenly or by counts: `"cuda:0" = 5, "cuda:1" = 7` |
/// | `#[repeat]` | runs an array or a `Vec` of layers in order, as one layer |
/// | `#[stash(a)]` | keeps a value for a later layer: the layer returns `(output, a)` |
/// | `#[stash(a = input)]`, `#[stash(a = output)]` | keeps the layer's input or output |
/// | `#[stash(a = input.1)]`, `#[stash(a = output.mask)]` | keeps a part of it |
/// | `#[pop(a)]` | takes a kept value beside the input: the layer takes `(input, a)` |
/// | `#[stash(a[..])]`, `#[pop(a[..])]` | a skip of each layer of an array, in reverse |
/// | `#[lend(a = output)]`, `#[lend(a = input.1)]` | lends a value to any number of later layers |
/// | `#[lend(a = tied)]` | lends the layer's weight, for layers that are tied to it |
/// | `#[sum(a)]` | adds up what the layer returns beside its output: it returns `(output, a)` |
/// | `#[read(a)]` | takes a lent value beside the input: the layer takes `(input, a)` |
/// | `#[layer(name = "..")]` | sets the layer's name in parameter paths |
/// | `#[not_a_layer]` | marks a plain field |
///
/// A field of type `Option<L>` is a layer that may be absent, which is then the identity.
///
/// Devices are `cpu`, `cuda:N`, `mps` and `xpu:N`. A `#[device]` with the accelerator of the stage
/// above stays in that stage, whereas `cpu` always opens a stage.
///
/// # Generated items
///
/// For a struct `Net` with devices: `Net::PLAN`, `Net::STAGES`, `Net::devices()`, `Net::vars(..)`,
/// `pipe(..)` and `unpipelined()`, and a struct `NetVars` with a method for each layer, which
/// returns its parameter path.
///
/// A struct without devices is a *block*, which nests as one layer of another model. It has `PLAN`,
/// `unpipelined()`, and `vars_at(..)` in place of `vars(..)`.
///
/// # Warnings
///
/// These are probably mistakes. `allow(..)` switches them off by name.
///
/// * `single_stage`: all layers run in one stage.
/// * `short_skip`: a skip between neighbours crosses a stage boundary that could be moved.
/// * `single_reader`: a lent value is read by one layer, so it could be a skip.
/// * `except_last_of_one_chunk`: `except_last` checkpoints nothing, because `chunks = 1`.
/// * `name_differs_by_case`: a layer's name differs from its field's by case alone.
#[proc_macro_attribute]
pub fn pipeline(args: TokenStream, item: TokenStream) -> TokenStream {
    pipeline::attach_derive(args.into(), item.into()).into()
}

/// Derive that [`macro@pipeline`] puts on the struct. Unlike an attribute, a derive sees the fields
/// after `#[cfg]` has been applied.
#[doc(hidden)]
#[proc_macro_derive(
    __Pipeline,
    attributes(__pipeline, device, devices, stage, repeat, recompute, stash, pop, lend, read, sum, layer, not_a_layer)
)]
pub fn derive_pipeline(item: TokenStream) -> TokenStream {
    pipeline::derive(item.into()).into()
}

/// Derives `Flow` for a struct, so that it can cross stage boundaries and be a model's input or
/// output.
///
/// All fields must be `Flow`. Each is split into micro-batches at the input and joined at the
/// output as its type says. The derive also implements `IntoFlow` for the struct and for a
/// reference to it, so both can be passed to `forward`.
///
/// ```ignore
/// #[derive(Flow)]
/// struct Batch {
///     tokens: Tensor,
///     lengths: Tensor,
///     mask: Replicate<Tensor>,
/// }
/// ```
///
/// `#[flow(crate = path)]` gives the path of the runtime crate, if it was renamed. An enum or a
/// union is a compile error.
#[proc_macro_derive(Flow, attributes(flow))]
pub fn derive_flow(item: TokenStream) -> TokenStream {
    derive_flow::derive(item.into()).into()
}
