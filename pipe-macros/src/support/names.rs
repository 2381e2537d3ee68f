//! Comparison of names, and suggestions for misspelt ones.

use pipe_schedule::support::spelling::distance;
use proc_macro2::Ident;
use syn::ext::IdentExt;

/// Edit distance of two swapped letters, which count as one typo.
const SWAP: usize = 1;

/// The name without `r#`.
pub fn plain(ident: &Ident) -> String {
    ident.unraw().to_string()
}

/// Finds the candidate closest to `name`, if one is close enough to be a suggestion.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let length = |name: &str| name.chars().count();
    candidates
        .into_iter()
        .map(|candidate| (distance(name, candidate, SWAP), candidate))
        .filter(|(distance, candidate)| *distance <= length(name).max(length(candidate)) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found_through_a_typo() {
        assert_eq!(nearest("chunk", ["chunks", "checkpoint"]), Some("chunks"));
        assert_eq!(nearest("levle1", ["level1", "level2"]), Some("level1"));
    }

    #[test]
    fn a_name_unlike_all_others_has_no_nearest() {
        assert_eq!(nearest("banana", ["chunks", "checkpoint"]), None);
        assert_eq!(nearest("a", ["b"]), None);
    }

    #[test]
    fn a_raw_name_reads_without_its_prefix() {
        assert_eq!(plain(&syn::parse_quote!(r#type)), "type");
    }
}
