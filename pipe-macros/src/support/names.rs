//! Names, as users read them.

use proc_macro2::Ident;
use syn::ext::IdentExt;

/// The identifier without `r#`.
pub fn plain(ident: &Ident) -> String {
    ident.unraw().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raw_name_reads_without_its_prefix() {
        assert_eq!(plain(&syn::parse_quote!(r#type)), "type");
    }
}
