//! How deeply tokens are nested. syn reads them by functions that call themselves, so tokens that
//! are nested deeply enough would end the compiler.

use proc_macro2::{Spacing, Span, TokenStream, TokenTree};
use syn::buffer::Cursor;
use syn::parse::{Parse, ParseStream, Parser};

use super::errors::with_help;

/// The number of tokens or brackets, each within the one before it. rustc's own limit for types is
/// as many types, by default.
pub const LIMIT: usize = 128;

/// Parses tokens, or gives the error on those that are nested too deeply, at the first that is.
///
/// The check goes through syn's buffer, as the parser does: rustc's own tokens are slow to walk.
pub fn parse<T: Parse>(tokens: TokenStream) -> syn::Result<T> {
    let checked = |tokens: ParseStream| check(tokens.cursor()).and_then(|()| tokens.parse());
    checked.parse2(tokens)
}

fn check(tokens: Cursor) -> syn::Result<()> {
    match too_deep(tokens, 0) {
        None => Ok(()),
        Some(place) => Err(syn::Error::new(
            place,
            with_help("this is nested too deeply", "give a part of it a name: `type Part = ..;`, or a constant"),
        )),
    }
}

/// Each bracket is a level, and so is each token of a run without a comma or semicolon: `&&T` and
/// `fn() -> fn() -> T` are nested, too. No run in a readable struct is that long.
fn too_deep(mut tokens: Cursor, outside: usize) -> Option<Span> {
    let (mut run, mut angles) = (0, 0_usize);
    let (mut is_arrow, mut is_attribute) = (false, false);
    loop {
        let mut next = (false, false);
        let (inside, rest) = match tokens.any_group() {
            Some((inside, _, _, rest)) => {
                // Attributes stand one after the other.
                run += usize::from(!is_attribute);
                (Some(inside), rest)
            }
            None => {
                let (token, rest) = tokens.token_tree()?;
                match &token {
                    TokenTree::Punct(punct) => match punct.as_char() {
                        ',' => run = 0,
                        ';' => (run, angles) = (0, 0),
                        '<' => angles += 1,
                        '>' if !is_arrow => angles = angles.saturating_sub(1),
                        '#' => next.1 = true,
                        sign => {
                            run += 1;
                            next.0 = matches!(sign, '-' | '=') && punct.spacing() == Spacing::Joint;
                        }
                    },
                    _ => run += 1,
                }
                (None, rest)
            }
        };
        let level = outside + angles + run;
        if level > LIMIT {
            return Some(tokens.span());
        }
        if let Some(place) = inside.and_then(|inside| too_deep(inside, level)) {
            return Some(place);
        }
        (is_arrow, is_attribute) = next;
        tokens = rest;
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use super::*;

    fn is_too_deep(text: &str) -> bool {
        parse::<TokenStream>(TokenStream::from_str(text).unwrap()).is_err()
    }

    #[test]
    fn all_kinds_of_nesting_count() {
        let around = |open: &str, close: &str, levels: usize| {
            format!("struct A {{ #[mark] pub a: {}T{}, b: B }}", open.repeat(levels), close.repeat(levels))
        };
        for (open, close) in [("(", ")"), ("[", "; 1]"), ("V<", ">"), ("V<u8, ", ">"), ("&", ""), ("fn() -> ", "")] {
            assert!(!is_too_deep(&around(open, close, 25)), "{open}");
            assert!(is_too_deep(&around(open, close, 130)), "{open}");
        }
        for (open, close) in [("-", ""), ("{", "}"), ("if a { 0 } else ", ""), ("return ", "")] {
            let (open, close) = (open.repeat(130), close.repeat(130));
            assert!(is_too_deep(&around(&format!("[L; {open}"), &format!("{close}]"), 1)), "{open}");
        }
        assert!(is_too_deep(&format!("#[a{}{}] struct A;", "(".repeat(130), ")".repeat(130))));
    }

    #[test]
    fn what_stands_side_by_side_is_not_nested() {
        let attributes = "#[doc = \"text\"] ".repeat(1000);
        let fields = "a: Vec<fn(&T) -> V<A, B>>, b: [L; 3], ".repeat(1000);
        assert!(!is_too_deep(&format!("{attributes} struct A {{ {attributes} {fields} }}")));
        let bounds = "T: Fn(A) -> B, ".repeat(1000);
        assert!(!is_too_deep(&format!("struct A<T> where {bounds} {{ a: T }}")));
    }
}
