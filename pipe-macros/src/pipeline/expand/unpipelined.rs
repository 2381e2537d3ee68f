//! The unpipelined run: implements `Layer` and `Model` for the model.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};

use super::body::{calls, site};
use super::types::{input, output};
use super::{Bodies, here, settings};
use crate::pipeline::model::Model;
use crate::pipeline::plan::unpipelined;

/// Generates `impl Model`, with input and output types, the plan and the annotated defaults.
///
/// That input and output are `Flow` is required only here: the stages rely on it.
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

/// Generates `impl Layer`, which runs all layers in order on the current thread.
///
/// A model with devices does not nest, so rustc should not suggest it where a layer is needed.
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
    let calls = calls(model, &unpipelined(model), 0);
    let at_end = model.layers.last().map_or_else(here, site);
    let result = result(at_end);
    quote_spanned! {here()=>
        let Self { #(#fields,)* #others } = self;
        #calls
        #result
    }
}

/// Returns the last layer's output, which must have the model's output type. A stage and the
/// unpipelined run have the same tokens for it, so that rustc reports a mismatch once.
pub fn result(at: Span) -> TokenStream {
    quote_spanned!(at=> __rt::output::<Self>(x))
}
