//! The settings in the parentheses of `#[pipeline(..)]`.

use proc_macro2::Ident;
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{DeriveInput, Path, Token, parenthesized};

use super::skip_to_comma;
use crate::pipeline::attribute::crate_path;
use crate::pipeline::declaration::{Mark, Outer, Settings};
use crate::support::errors::{Errors, error_at_both, with_help};

pub fn parse(item: &DeriveInput, errors: &mut Errors) -> Settings {
    let arguments =
        item.attrs.iter().find(|attr| attr.path().is_ident("__pipeline") && attr.meta.require_list().is_ok());
    let tokens = arguments.and_then(|attr| attr.meta.require_list().ok()).map(|list| list.tokens.clone());
    let mut settings = Settings {
        input: None,
        output: None,
        chunks: None,
        checkpoint: None,
        cheap_outputs: None,
        schedule: None,
        balance: None,
        reads: None,
        sums: None,
        allowed: Vec::new(),
        krate: crate_path(&tokens.unwrap_or_default()),
        unreadable: Vec::new(),
        unknown: Vec::new(),
    };
    let mut seen: Vec<Ident> = Vec::new();
    let read_all = |tokens: ParseStream| {
        while !tokens.is_empty() {
            if let Err(wrong) = read_one(tokens, &mut settings, &mut seen, errors) {
                errors.push(wrong);
                settings.unreadable.extend(seen.last().cloned());
                skip_to_comma(tokens);
            }
            if !tokens.is_empty() {
                tokens.parse::<Token![,]>()?;
            }
        }
        Ok(())
    };
    if let Some(Err(wrong)) = arguments.map(|attr| attr.parse_args_with(read_all)) {
        errors.push(wrong);
    }
    settings
}

/// Reads `name = value` or `allow(..)`, up to the comma.
fn read_one(
    tokens: ParseStream,
    settings: &mut Settings,
    seen: &mut Vec<Ident>,
    errors: &mut Errors,
) -> syn::Result<()> {
    let setting = |wrong: syn::Error| syn::Error::new(wrong.span(), "expected a setting");
    let name = tokens.call(Ident::parse_any).map_err(|wrong| explained(&setting(wrong), "chunks = 8"))?;
    if let Some(first) = seen.iter().find(|first| **first == name) {
        errors.push(error_at_both(
            &name,
            format!("`{name}` is set twice"),
            "remove one of them",
            first,
            format!("`{name}` is first set here"),
        ));
        skip_to_comma(tokens);
        return Ok(());
    }
    seen.push(name.clone());
    match name.to_string().as_str() {
        "input" => settings.input = Some(value(tokens, "a type", "input = Tensor")?),
        "output" => settings.output = Some(value(tokens, "a type", "output = Tensor")?),
        "chunks" => settings.chunks = Some(value(tokens, "a number", "chunks = 8")?),
        "checkpoint" => settings.checkpoint = Some(value(tokens, "a mode", "checkpoint = except_last")?),
        "cheap_outputs" => {
            settings.cheap_outputs = Some(value(tokens, "a word", "cheap_outputs = recompute_all")?);
        }
        "schedule" => settings.schedule = Some(value(tokens, "a schedule", "schedule = gpipe")?),
        "balance" => settings.balance = Some(value(tokens, "a file in quotes", "balance = \"balance.toml\"")?),
        "crate" => skip_checked_path(tokens)?,
        "allow" => settings.allowed = names(tokens)?,
        "read" => {
            settings.reads = Some(Mark { word: name, value: outer_values(tokens, "read(memory: Tensor)")? });
        }
        "sum" => settings.sums = Some(Mark { word: name, value: outer_values(tokens, "sum(balance: Mean)")? }),
        _ => {
            settings.unknown.push(name);
            skip_to_comma(tokens);
        }
    }
    Ok(())
}

/// Reads `= value`. `example` is the whole setting, for the message.
fn value<T: Parse>(tokens: ParseStream, what: &str, example: &str) -> syn::Result<T> {
    after_equals(tokens, T::parse, what, example)
}

/// Skips `crate = path`, which [`crate_path`] has read already, and reports a path that cannot be
/// read.
fn skip_checked_path(tokens: ParseStream) -> syn::Result<()> {
    after_equals(tokens, Path::parse_mod_style, "a path", "crate = ::pipe_runtime").map(drop)
}

fn after_equals<T>(
    tokens: ParseStream,
    read: fn(ParseStream) -> syn::Result<T>,
    what: &str,
    example: &str,
) -> syn::Result<T> {
    let parse = || {
        tokens.parse::<Token![=]>()?;
        let expected = |wrong: syn::Error| syn::Error::new(wrong.span(), format!("expected {what}"));
        let value = read(tokens).map_err(expected)?;
        at_end_of_setting(tokens)?;
        Ok(value)
    };
    parse().map_err(|wrong| explained(&wrong, example))
}

/// Reads `allow(a, b)`. `check::warnings` checks the names.
fn names(tokens: ParseStream) -> syn::Result<Vec<Ident>> {
    let parse = || {
        let names;
        parenthesized!(names in tokens);
        let names = Punctuated::<Ident, Token![,]>::parse_terminated(&names)?;
        at_end_of_setting(tokens)?;
        Ok(names.into_iter().collect())
    };
    parse().map_err(|wrong| explained(&wrong, "allow(single_stage)"))
}

/// Reads the rest of `read(memory: Tensor, mask: Tensor)`. `example` is a whole setting, for the
/// message.
fn outer_values(tokens: ParseStream, example: &str) -> syn::Result<Vec<Outer>> {
    let one = |tokens: ParseStream| {
        let name = tokens.call(Ident::parse_any)?;
        tokens.parse::<Token![:]>()?;
        Ok(Outer { name, ty: tokens.parse()? })
    };
    let parse = || {
        let values;
        parenthesized!(values in tokens);
        if values.is_empty() {
            return Err(values.error("expected at least one value"));
        }
        let values = Punctuated::<Outer, Token![,]>::parse_terminated_with(&values, one)?;
        at_end_of_setting(tokens)?;
        Ok(values.into_iter().collect())
    };
    parse().map_err(|wrong| explained(&wrong, example))
}

fn at_end_of_setting(tokens: ParseStream) -> syn::Result<()> {
    if tokens.is_empty() || tokens.peek(Token![,]) {
        return Ok(());
    }
    Err(tokens.error("expected `,` after this setting"))
}

fn explained(wrong: &syn::Error, example: &str) -> syn::Error {
    syn::Error::new(wrong.span(), with_help(wrong, format!("write `{example}`")))
}

#[cfg(test)]
mod tests {
    use quote::ToTokens;

    use crate::pipeline::tests::{mistakes, model};

    #[test]
    fn values_may_contain_commas() {
        let settings = model("#[pipeline(input = Map<A, B>, output = (A, B),)] struct M { a: A }").settings;
        assert_eq!(settings.input.to_token_stream().to_string(), "Map < A , B >");
        assert_eq!(settings.output.to_token_stream().to_string(), "(A , B)");
    }

    #[test]
    fn the_runtime_is_found_where_it_is_said_to_be() {
        let krate = |source| model(source).settings.krate.to_token_stream().to_string();
        assert_eq!(krate("#[pipeline] struct M { a: A }"), ":: pipe_runtime");
        assert_eq!(krate("#[pipeline(chunks = 2, crate = crate::inner)] struct M { a: A }"), "crate :: inner");
    }

    #[test]
    fn one_unreadable_setting_does_not_hide_the_next() {
        let mistakes = mistakes("#[pipeline(chunks, input = 3, output = 4, crate = 1)]\nstruct M { a: A }");
        assert_eq!(mistakes, "1: expected `=`\n1: expected a type\n1: expected a type\n1: expected a path\n");
    }

    #[test]
    fn a_missing_comma_is_one_mistake() {
        assert_eq!(
            mistakes("#[pipeline(chunks = 2 checkpoint = never)]\nstruct M { a: A }"),
            "1: expected `,` after this setting\n"
        );
    }
}
