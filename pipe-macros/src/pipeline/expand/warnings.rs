//! Generates warnings as uses of deprecated constants, with spans in the user's code. A derive on
//! stable Rust has no other way to warn.

use proc_macro2::{Ident, TokenStream};
use quote::quote;

use crate::pipeline::check::Warning;
use crate::support::errors::with_help;

/// Generates a block per warning, which declares a constant of its name and uses it.
pub fn uses(warnings: &[Warning]) -> TokenStream {
    warnings.iter().map(used).collect()
}

fn used(warning: &Warning) -> TokenStream {
    let Warning { name, place, wrong, help } = warning;
    let note = with_help(wrong, format!("{help}, or say `allow({name})`"));
    // The span is the user's and not `mixed_site`, because rustc does not lint code from another
    // crate's macro.
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
