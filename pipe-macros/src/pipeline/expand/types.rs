//! Types that several parts of the expansion use.

use proc_macro2::{Ident, TokenStream, TokenTree};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::{GenericParam, Generics, WhereClause, WherePredicate, parse_quote_spanned};

use super::here;
use crate::pipeline::declaration::Outer;
use crate::pipeline::model::Model;

/// The input type: `input = T`, or a tensor; with what a block reads from outside, a tuple of both.
pub fn input(model: &Model) -> TokenStream {
    let input = match &model.settings.input {
        Some(ty) => ty.to_token_stream(),
        None => quote_spanned!(here()=> __rt::Tensor),
    };
    beside(input, model.settings.outer_values())
}

/// The output type: `output = T`, or a tensor; with what layers add up, a tuple of both.
pub fn output(model: &Model) -> TokenStream {
    let output = match &model.settings.output {
        Some(ty) => ty.to_token_stream(),
        None => quote_spanned!(here()=> __rt::Tensor),
    };
    beside(output, model.settings.sums())
}

/// `T`, or `(T, Mask)` with other values.
fn beside(ty: TokenStream, others: &[Outer]) -> TokenStream {
    let others = others.iter().map(|value| &value.ty);
    match others.len() {
        0 => ty,
        _ => quote_spanned!(here()=> (#ty, #(#others,)*)),
    }
}

/// The bounds for a model that can move to other threads: it borrows nothing.
pub fn owning(model: &Model) -> Option<WhereClause> {
    let mut generics = model.generics.clone();
    let params: Vec<Ident> = generics.type_params().map(|param| param.ident.clone()).collect();
    if !params.is_empty() {
        generics.make_where_clause().predicates.extend(params.iter().map(static_bound));
    }
    generics.where_clause
}

/// The bound `L: 'static`.
pub fn static_bound(param: &Ident) -> WherePredicate {
    parse_quote_spanned!(here()=> #param: 'static)
}

/// The name `UNetVars`.
pub fn vars_ident(model: &Model) -> Ident {
    format_ident!("{}Vars", model.ident)
}

/// The parameters of `UNetVars`: the constants, which array lengths may need. Types are not needed.
pub fn vars_generics(model: &Model) -> Generics {
    let constants = model.generics.params.iter().filter(|param| matches!(param, GenericParam::Const(_)));
    Generics { params: constants.cloned().collect(), ..Generics::default() }
}

/// The type `UNetVars<N>`, with `lifetime` first if there is one.
pub fn vars_type(model: &Model, lifetime: Option<TokenStream>) -> TokenStream {
    let ident = vars_ident(model);
    let constants = model.generics.const_params().map(|param| param.ident.to_token_stream());
    let arguments: Vec<TokenStream> = lifetime.into_iter().chain(constants).collect();
    match arguments.is_empty() {
        true => quote!(#ident),
        false => quote!(#ident<#(#arguments),*>),
    }
}

/// The length of an array, for a place where `Self` is another type than the struct.
pub fn outside_of_self(len: &impl ToTokens, model: &Model) -> TokenStream {
    len.to_token_stream()
        .into_iter()
        .map(|token| match token {
            TokenTree::Ident(word) if word == "Self" => {
                let mut ident = model.ident.clone();
                ident.set_span(ident.span().located_at(word.span()));
                ident.into()
            }
            token => token,
        })
        .collect()
}
