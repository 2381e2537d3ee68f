//! The macro, called as the compiler calls it. Each target that includes this has the macro's
//! modules.

use pipe_fuzz::is_refused;
use proc_macro2::TokenStream;
use syn::File;

use crate::pipeline;
use crate::support::depth;

/// Expands the attribute and then the derive that it adds. What is generated must be Rust.
pub fn expand(settings: TokenStream, item: TokenStream) {
    let attached = pipeline::attach_derive(settings, item);
    // The compiler removes what is not for the derive. What is nested too deeply, the derive
    // refuses before it reads it.
    if depth::parse::<TokenStream>(attached.clone()).is_ok() && is_refused(syn::parse2(attached.clone())) {
        return;
    }
    let generated = pipeline::derive(attached);
    assert!(syn::parse2::<File>(generated.clone()).is_ok(), "this was generated: {generated}");
}
