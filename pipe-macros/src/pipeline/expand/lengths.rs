//! Generates compile-time checks that two arrays of which each layer has a skip are of one length.
//! If both lengths are literals, the macro has compared them. Otherwise only rustc knows them, and
//! the length of a `Vec` is known when the pipeline is built.

use proc_macro2::{Delimiter, Group, Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::Expr;

use super::body::{on_type, site};
use super::here;
use super::nesting::mentions;
use super::types::outside_of_self;
use crate::pipeline::declaration::Shape;
use crate::pipeline::model::{Layer, Model, Skip};
use crate::support::errors::with_help;

/// The layers at both ends of a skip of each layer of an array.
struct Ends<'m> {
    name: &'m str,
    stash: &'m Layer,
    pop: &'m Layer,
}

/// `const _: () = __rt::as_many([UP, DOWN], "..");` for lengths that are the same in every use of
/// the struct.
pub fn of_constants(model: &Model) -> TokenStream {
    let checks = compared(model).filter(|(_, lengths)| !has_parameter(model, lengths));
    let checks = checks.map(|(ends, lengths)| {
        let check = check(&ends, lengths, &lengths.map(|length| outside_of_self(length, model)));
        quote_spanned!(here()=> const _: () = #check;)
    });
    checks.collect()
}

/// `const { __rt::as_many([UP, DOWN], "..") };` for lengths with a const parameter of the struct,
/// in a function that runs or builds the model. rustc evaluates it where the parameter gets a
/// value: `cargo build` does, and `cargo check` does not.
pub fn of_parameters(model: &Model) -> TokenStream {
    let checks = compared(model).filter(|(_, lengths)| has_parameter(model, lengths));
    let checks = checks.map(|(ends, lengths)| {
        let check = check(&ends, lengths, &lengths.map(ToTokens::to_token_stream));
        quote_spanned!(here()=> const { #check };)
    });
    checks.collect()
}

/// `__rt::same_length("level", ("down", &down), ("up", &up))?;` if one of them is a `Vec`.
pub fn of_lists(model: &Model) -> TokenStream {
    let array = |layer: &Layer| {
        let (field, child) = (on_type(layer, layer.ident.clone()), layer.child());
        quote_spanned!(site(layer)=> (#child, &#field))
    };
    let checks = ends(model).filter(|ends| lengths(ends).is_none()).map(|Ends { name, stash, pop }| {
        let (from, to) = (array(stash), array(pop));
        quote_spanned!(here()=> __rt::same_length(#name, #from, #to)?;)
    });
    checks.collect()
}

fn ends(model: &Model) -> impl Iterator<Item = Ends<'_>> {
    let of_skip = |skip: &'_ Skip| {
        let stash = skip.stashes.first().filter(|end| end.each)?.layer;
        let pop = skip.pops.first().filter(|end| end.each)?.layer;
        Some((stash, pop))
    };
    model.skips.iter().filter_map(move |skip| {
        let (stash, pop) = of_skip(skip)?;
        Some(Ends { name: &skip.name, stash: &model.layers[stash], pop: &model.layers[pop] })
    })
}

/// The ends, and the lengths of both arrays where the macro cannot tell whether they are equal.
fn compared(model: &Model) -> impl Iterator<Item = (Ends<'_>, [&Expr; 2])> {
    let unknown = |ends: &Ends<'_>| ends.stash.literal_len().is_none() || ends.pop.literal_len().is_none();
    let pairs = ends(model).filter(unknown).filter_map(|ends| {
        let lengths = lengths(&ends)?;
        Some((ends, lengths))
    });
    pairs.filter(|(_, [popped, stashed])| written(popped) != written(stashed))
}

/// The length of the array that pops, and of the one that stashes.
fn lengths<'m>(ends: &Ends<'m>) -> Option<[&'m Expr; 2]> {
    match (&ends.pop.shape, &ends.stash.shape) {
        (Shape::Array { len: popped, .. }, Shape::Array { len: stashed, .. }) => Some([popped, stashed]),
        _ => None,
    }
}

fn has_parameter(model: &Model, lengths: &[&Expr; 2]) -> bool {
    let parameters = model.generics.const_params().map(|param| param.ident.to_string()).collect();
    lengths.iter().any(|length| mentions(length.to_token_stream(), &parameters))
}

/// The call, with the span of the length of the array that pops, where rustc reports it.
fn check(ends: &Ends<'_>, lengths: [&Expr; 2], [popped, stashed]: &[TokenStream; 2]) -> TokenStream {
    let (pop, stash, name) = (&ends.pop.ident, &ends.stash.ident, ends.name);
    let [pops, stashes] = lengths.map(written);
    let wrong = format!(
        "`{pops}` layers of `{pop}` pop `{name}`, and `{stashes}` layers of `{stash}` stash one: the numbers differ"
    );
    let help = "make the arrays as long: the first layer that pops takes the skip of the last one that stashes";
    let text = with_help(wrong, help);
    let (first, last) = both_ends(popped);
    let mut arguments = Group::new(Delimiter::Parenthesis, quote!([#popped, #stashed], #text));
    arguments.set_span(last);
    quote_spanned!(first=> __rt::as_many #arguments)
}

/// The places of the first and of the last token.
fn both_ends(tokens: &TokenStream) -> (Span, Span) {
    let mut spans = tokens.clone().into_iter().map(|token| here().located_at(token.span()));
    let first = spans.next().unwrap_or_else(here);
    (first, spans.last().unwrap_or(first))
}

/// A length as it is written.
fn written(length: &Expr) -> String {
    length.to_token_stream().to_string().replace(" :: ", "::")
}
