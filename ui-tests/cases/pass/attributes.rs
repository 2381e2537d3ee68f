//! Attributes and macros of others on the struct, its fields and their types.
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
    /// Everything comes from a macro.
    #[derive(Debug)]
    Made { one: Linear = "cuda:0", two: linear!() = "cuda:1", } chunks = 4
}

/// Another crate's derive reads its own attributes on the same fields.
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

/// A struct that is local to a function, and private.
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
