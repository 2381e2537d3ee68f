//! Names, as the user reads them.

use proc_macro2::Ident;
use syn::ext::IdentExt;

/// The name as it is read: without `r#`.
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
