//! Attributes and macros of other crates on the struct, its fields and their types.
#![deny(warnings)]

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

macro_rules! linear {
    () => {
        Linear
    };
}

macro_rules! made {
    ($(#[$attribute:meta])* $name:ident { $($field:ident: $layer:ty = $device:literal,)* } chunks = $chunks:expr) => {
        $(#[$attribute])*
        #[pipeline(chunks = $chunks)]
        pub struct $name {
            $(#[device($device)] $field: $layer,)*
        }
    };
}

made! {
    /// A struct whose parts all come from a macro.
    #[derive(Debug)]
    Made { one: Linear = "cuda:0", two: linear!() = "cuda:1", } chunks = 4
}

/// A struct with another crate's derive, which reads its own attributes on the same fields.
#[derive(Debug, thiserror::Error)]
#[error("a model that failed")]
#[pipeline]
pub struct Failed {
    /// The first layer.
    #[device("cuda:0")]
    #[doc(alias = "first")]
    #[cfg_attr(all(), allow(dead_code))]
    one: Linear,
    #[rustfmt::skip]
    #[device( "cuda:1", )]
    two: linear!(),
    #[cfg(any())]
    #[device("toaster")]
    gone: Missing,
    #[not_a_layer]
    #[source]
    cause: std::fmt::Error,
}

/// Declares a private struct that is local to a function.
fn local() {
    #[pipeline]
    struct Local {
        #[device("cpu")]
        one: Linear,
        #[device("cpu")]
        two: Linear,
    }
    let _ = |vars: LocalVars| Local { one: Linear, two: Linear }.pipe(&vars).build().is_ok();
}

fn main() {
    local();
    assert_eq!(Made::STAGES, 2);
    let _ = |vars: FailedVars| [vars.one(), vars.two()].len();
    let _ = Failed { one: Linear, two: Linear, cause: std::fmt::Error }.to_string();
}
