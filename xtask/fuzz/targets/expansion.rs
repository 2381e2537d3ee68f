//! The macro, called as the compiler calls it. Each target that includes this has the macro's
//! modules.

use proc_macro2::TokenStream;
use syn::{Data, DeriveInput, File, Member};

use crate::pipeline;
use crate::support::depth;

/// Expands the attribute and then the derive that it adds. What is generated must be Rust.
pub fn expand(settings: TokenStream, item: TokenStream) {
    let attached = pipeline::attach_derive(settings, item);
    // The compiler removes what is not for the derive, and refuses what is no item. It refuses a
    // field `_`, too, which syn reads. What is nested too deeply, the derive refuses before it
    // reads it.
    if depth::check(&attached).is_ok() {
        let Ok(item) = syn::parse2::<DeriveInput>(attached.clone()) else { return };
        let is_underscore = |name: Member| matches!(name, Member::Named(name) if name == "_");
        if matches!(item.data, Data::Struct(data) if data.fields.members().any(is_underscore)) {
            return;
        }
    }
    let generated = pipeline::derive(attached);
    assert!(syn::parse2::<File>(generated.clone()).is_ok(), "this was generated: {generated}");
}
