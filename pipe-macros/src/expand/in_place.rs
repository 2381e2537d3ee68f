//! The in-place run: the model as an ordinary layer, and what it says about itself.

use proc_macro2::TokenStream;
use quote::quote_spanned;

use super::body::{calls, site};
use super::types::{input, output};
use super::{here, settings};
use crate::model::Model;
use crate::plan::Plan;

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
pub fn layer_impl(model: &Model, in_place: &Plan) -> TokenStream {
    let ident = &model.ident;
    let (generics, arguments, bounds) = model.generics.split_for_impl();
    let (input, output) = (input(model), output(model));
    let fields = model.layers.iter().map(|layer| &layer.ident);
    let calls = calls(model, in_place, 0);
    let at_end = model.layers.last().map_or_else(here, site);
    let result = quote_spanned!(at_end=> x);
    quote_spanned! {here()=>
        impl #generics __rt::Layer<#input> for #ident #arguments #bounds {
            type Out = #output;
            fn forward(&self, x: #input, cx: &__rt::Context) -> #output {
                let Self { #(#fields,)* .. } = self;
                #calls
                #result
            }
        }
    }
}
