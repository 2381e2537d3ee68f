//! Generates the unpipelined run: the model as an ordinary layer, and its description.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};

use super::body::{calls, site};
use super::types::{input, output};
use super::{Bodies, here, lends, lengths, settings, sums};
use crate::pipeline::model::Model;
use crate::pipeline::plan::unpipelined;

/// `impl Model`: its input and output types, its plan and its annotated defaults.
///
/// Only this impl requires that input and output are `Flow`; the stages rely on it.
pub fn model_impl(model: &Model) -> TokenStream {
    let ident = &model.ident;
    let (generics, arguments, bounds) = model.generics.split_for_impl();
    let (input, output) = (input(model), output(model));
    let defaults = settings::defaults(model);
    quote_spanned! {here()=>
        impl #generics __rt::Model for #ident #arguments #bounds {
            type Input = #input;
            type Output = #output;
            const PLAN: __rt::Plan = Self::PLAN;
            const DEFAULTS: __rt::Defaults = #defaults;
        }
    }
}

/// `impl Layer`: runs all layers, one after the other.
///
/// A model with devices does not nest, so rustc should not propose it where a layer is wanted.
pub fn layer_impl(model: &Model, bodies: Bodies) -> TokenStream {
    let ident = &model.ident;
    let (generics, arguments, bounds) = model.generics.split_for_impl();
    let (input, output) = (input(model), output(model));
    let (x, cx, body) = match bodies {
        Bodies::Written => (quote_spanned!(here()=> x), quote_spanned!(here()=> cx), body(model)),
        Bodies::Empty => (quote!(_), quote!(_), quote!(loop {})),
    };
    let silent = model.has_devices.then(|| quote!(#[diagnostic::do_not_recommend]));
    quote_spanned! {here()=>
        #silent
        impl #generics __rt::Layer<#input> for #ident #arguments #bounds {
            type Out = #output;
            fn run(&self, #x: #input, #cx: &__rt::Context) -> #output {
                #body
            }
        }
    }
}

fn body(model: &Model) -> TokenStream {
    let fields = model.layers.iter().map(|layer| &layer.ident);
    let others = (!model.plain_fields.is_empty()).then(|| quote!(..));
    let plan = unpipelined(model);
    let (sums, calls) = (sums::begin(model, &plan, 0), calls(model, &plan, 0));
    let at_end = model.layers.last().map_or_else(here, site);
    let result = result(model, at_end);
    let outer = model.settings.outer_values();
    let outer: Vec<_> = outer.iter().map(|value| lends::variable(&value.name, here())).collect();
    let outer = (!outer.is_empty()).then(|| quote_spanned!(here()=> let (x, #(#outer,)*) = x;));
    let lengths = lengths::of_parameters(model);
    quote_spanned! {here()=>
        #lengths
        let Self { #(#fields,)* #others } = self;
        #outer
        #sums
        #calls
        #result
    }
}

/// The output of the last layer, and what all have added up, which must have the model's output
/// type. A stage and the
/// unpipelined run check this with the same tokens, so that rustc reports a mismatch once.
pub fn result(model: &Model, at: Span) -> TokenStream {
    let output = sums::output(model, at);
    quote_spanned!(at=> __rt::output::<Self>(#output))
}
