//! The attribute `#[pipeline(..)]`: leaves the item as it is, and puts the private derive on it.

use proc_macro2::{Delimiter, Group, Span, TokenStream, TokenTree};
use quote::quote;
use syn::parse::Parser;
use syn::{Path, parse_quote};

use crate::support::errors::with_help;

/// Returns the item with the derive and an attribute that holds the arguments for it.
pub fn attach_derive(args: TokenStream, item: TokenStream) -> TokenStream {
    match why_not_derivable(&item) {
        Some(wrong) => {
            let error = wrong.into_compile_error();
            quote!(#error #item)
        }
        None => {
            let krate = crate_path(&args);
            let args = in_parentheses(args);
            quote! {
                #[derive(#krate::__rt::__Pipeline)]
                #[__pipeline #args]
                #item
            }
        }
    }
}

/// The parentheses get the span of the end of the arguments, so that rustc reports there what is
/// missing.
fn in_parentheses(args: TokenStream) -> Group {
    let end = args.clone().into_iter().last().map(|last| match last {
        TokenTree::Group(group) => group.span_close(),
        last => last.span(),
    });
    let mut group = Group::new(Delimiter::Parenthesis, args);
    if let Some(end) = end {
        group.set_span(end);
    }
    group
}

fn why_not_derivable(item: &TokenStream) -> Option<syn::Error> {
    let mut tokens = item.clone().into_iter().peekable();
    let first = tokens.peek().cloned();
    while tokens.next_if(|token| matches!(token, TokenTree::Punct(punct) if punct.as_char() == '#')).is_some() {
        if is_own(tokens.next()) {
            return Some(syn::Error::new(
                Span::call_site(),
                with_help(
                    "`#[pipeline]` is repeated",
                    "give all settings in one: `#[pipeline(chunks = 8, checkpoint = never)]`",
                ),
            ));
        }
    }
    tokens.next_if(|token| is_word(token, &["pub"]));
    tokens.next_if(|token| matches!(token, TokenTree::Group(group) if group.delimiter() == Delimiter::Parenthesis));
    match tokens.next() {
        Some(keyword) if is_word(&keyword, &["struct", "enum", "union"]) => None,
        _ => Some(syn::Error::new_spanned(
            first,
            with_help(
                "`#[pipeline]` goes on a struct with named fields",
                "write `#[pipeline] struct Model { layer: Layer }`",
            ),
        )),
    }
}

/// Whether this is the rest of the attribute that [`attach_derive`] adds.
fn is_own(attribute: Option<TokenTree>) -> bool {
    let Some(TokenTree::Group(group)) = attribute else { return false };
    group.stream().into_iter().next().is_some_and(|word| is_word(&word, &["__pipeline"]))
}

fn is_word(token: &TokenTree, words: &[&str]) -> bool {
    matches!(token, TokenTree::Ident(word) if words.iter().any(|other| word == other))
}

/// The path in `crate = path`. Skips anything that it cannot read: the derive reports errors in the
/// arguments, and this path leads to the derive.
pub fn crate_path(args: &TokenStream) -> Path {
    let mut rest = args.clone().into_iter();
    while let Some(token) = rest.next() {
        let is_crate = matches!(&token, TokenTree::Ident(word) if word == "crate");
        let mut value = rest.clone();
        let is_set = matches!(value.next(), Some(TokenTree::Punct(punct)) if punct.as_char() == '=');
        if is_crate && is_set {
            let path: TokenStream =
                value.take_while(|token| !matches!(token, TokenTree::Punct(punct) if punct.as_char() == ',')).collect();
            if let Ok(path) = Path::parse_mod_style.parse2(path) {
                return path;
            }
        }
    }
    parse_quote!(::pipe_runtime)
}

#[cfg(test)]
mod tests {
    use quote::{ToTokens, quote};

    use super::*;

    #[test]
    fn the_struct_stays_as_it_is() {
        let item = quote! {
            /// Docs.
            #[derive(Debug)]
            pub(crate) struct M<T> where T: Clone { #[device("cpu")] #[cfg(test)] pub a: A<T> }
        };
        let attached = attach_derive(quote!(chunks = 8), item.clone()).to_string();
        assert_eq!(
            attached,
            quote!(#[derive(::pipe_runtime::__rt::__Pipeline)] #[__pipeline(chunks = 8)] #item).to_string()
        );
    }

    #[test]
    fn an_item_that_can_have_no_derive_stays_too() {
        let item = quote!(
            fn model() {}
        );
        let attached = attach_derive(TokenStream::new(), item.clone()).to_string();
        assert!(attached.contains("compile_error") && attached.ends_with(&item.to_string()), "{attached}");
    }

    #[test]
    fn the_crate_is_found_among_settings_that_cannot_be_read() {
        let krate = |args: TokenStream| crate_path(&args).to_token_stream().to_string();
        assert_eq!(krate(quote!(chunks == ?, crate = a::b, input = crate::T)), "a :: b");
        assert_eq!(krate(quote!(crate, crate = 1)), ":: pipe_runtime");
    }
}
