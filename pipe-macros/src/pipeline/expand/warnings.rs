//! Generates warnings, as uses of deprecated constants with the spans of the user's tokens. A
//! derive has no other way to warn on stable Rust.

use proc_macro2::{Ident, TokenStream};
use quote::quote;

use crate::pipeline::check::Warning;
use crate::support::errors::with_help;

/// One block per warning. It declares a constant with the warning's name, and uses it.
pub fn uses(warnings: &[Warning]) -> TokenStream {
    warnings.iter().map(used).collect()
}

fn used(warning: &Warning) -> TokenStream {
    let Warning { name, place, wrong, help } = warning;
    let note = with_help(wrong, format!("{help}, or say `allow({name})`"));
    // Not `mixed_site`: rustc lints the user's tokens, but not those that come from another crate's
    // macro.
    let name = Ident::new(name, *place);
    quote! {
        const _: () = {
            #[deprecated(note = #note)]
            #[allow(non_upper_case_globals)]
            const #name: () = ();
            #name
        };
    }
}
