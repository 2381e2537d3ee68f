//! Warnings, as uses of deprecated constants on the user's tokens: a derive on stable Rust has no
//! other way to warn.

use proc_macro2::{Ident, TokenStream};
use quote::quote;

use crate::pipeline::check::Warning;
use crate::support::errors::with_help;

/// One block per warning, that declares a constant by its name and uses it.
pub fn uses(warnings: &[Warning]) -> TokenStream {
    warnings.iter().map(used).collect()
}

fn used(warning: &Warning) -> TokenStream {
    let Warning { name, place, wrong, help } = warning;
    let note = with_help(wrong, format!("{help}, or say `allow({name})`"));
    // Not `mixed_site`: rustc lints what is the user's, and nothing that a macro of another crate
    // made.
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
