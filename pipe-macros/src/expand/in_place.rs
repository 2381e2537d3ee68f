//! The in-place run: the model as an ordinary layer, and what it says about itself.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};

use super::body::{calls, site};
use super::types::{input, output};
use super::{Bodies, here, settings};
use crate::model::Model;
use crate::plan::in_place;

/// `impl Model`: what it takes and returns, its plan and its annotated defaults.
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

/// `impl Layer`: runs all layers where they are.
pub fn layer_impl(model: &Model, bodies: Bodies) -> TokenStream {
    let ident = &model.ident;
    let (generics, arguments, bounds) = model.generics.split_for_impl();
    let (input, output) = (input(model), output(model));
    let forward = match bodies {
        Bodies::Written => forward(model),
        Bodies::Empty => quote!(loop {}),
    };
    quote_spanned! {here()=>
        impl #generics __rt::Layer<#input> for #ident #arguments #bounds {
            type Out = #output;
            fn forward(&self, x: #input, cx: &__rt::Context) -> #output {
                #forward
            }
        }
    }
}

fn forward(model: &Model) -> TokenStream {
    let fields = model.layers.iter().map(|layer| &layer.ident);
    let others = (!model.plain_fields.is_empty()).then(|| quote!(..));
    let calls = calls(model, &in_place(model), 0);
    let at_end = model.layers.last().map_or_else(here, site);
    let result = quote_spanned!(at_end=> x);
    quote_spanned! {here()=>
        let Self { #(#fields,)* #others } = self;
        #calls
        #result
    }
}
