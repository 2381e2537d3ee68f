//! Generated code under the strictest lints of rustc and clippy, which `cargo clippy` in `.ci/run`
//! applies to this module.
#![deny(
    absolute_paths_not_starting_with_crate,
    elided_lifetimes_in_paths,
    explicit_outlives_requirements,
    let_underscore_drop,
    meta_variable_misuse,
    missing_copy_implementations,
    missing_debug_implementations,
    missing_docs,
    redundant_imports,
    redundant_lifetimes,
    single_use_lifetimes,
    trivial_casts,
    trivial_numeric_casts,
    unit_bindings,
    unreachable_pub,
    unsafe_code,
    unused_extern_crates,
    unused_import_braces,
    unused_lifetimes,
    unused_macro_rules,
    unused_qualifications,
    unused_results,
    variant_size_differences,
    warnings,
    clippy::all,
    clippy::pedantic,
    clippy::nursery,
    clippy::restriction
)]
#![allow(
    dead_code,
    clippy::arbitrary_source_item_ordering,
    clippy::blanket_clippy_restriction_lints,
    clippy::shadow_reuse,
    reason = "these are about what is written here: the fields' order and names, and what uses them"
)]

use pipe_runtime::nn::{Add, Concat, Identity};
use pipe_runtime::{Flow, pipeline};
use tch::Tensor;
use tch::nn::Linear;

/// A block with everything that a block can have.
#[pipeline]
#[derive(Debug)]
struct Block<const WIDTH: usize> {
    #[stash(before = input)]
    linear: Linear,
    optional: Option<Linear>,
    #[repeat]
    more: Vec<Linear>,
    #[pop(before)]
    add: Add,
}

/// A pair.
#[derive(Debug, Flow)]
struct Pair<T> {
    /// One value.
    one: T,
    /// Another one.
    other: Option<Tensor>,
}

/// A model with everything that a model can have.
#[pipeline(chunks = 2, checkpoint = except_last, schedule = "1f1b")]
#[derive(Debug)]
struct Model {
    #[device("cpu")]
    #[stash(early = output)]
    first: Linear,
    #[devices("cpu", "cpu")]
    blocks: [Linear; 3],
    #[device("cpu")]
    #[layer(name = "middle")]
    block: Block<8>,
    #[device("cpu")]
    optional: Option<Linear>,
    #[pop(early)]
    concat: Concat,
    identity: Identity,
    head: Linear,
    /// Not a layer.
    #[not_a_layer]
    config: u8,
}
