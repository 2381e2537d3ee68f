//! Generates `UNetVars`, the parameter paths of the layers.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote_spanned};
use syn::{GenericParam, Lifetime};

use super::here;
use super::types::{outside_of_self, vars_generics, vars_ident, vars_type};
use crate::pipeline::declaration::Shape;
use crate::pipeline::model::{Layer, Model};

/// Defines the struct, with the visibility of the user's struct.
pub fn definition(model: &Model) -> TokenStream {
    let (ident, vis, krate) = (vars_ident(model), &model.vis, &model.settings.krate);
    let generics = vars_generics(model);
    match model.has_devices {
        true => {
            let doc = format!(" Parameter paths of [`{}`]: one per layer, each on its stage's device.", model.ident);
            quote_spanned! {here()=>
                #[doc = #doc]
                #[derive(::core::fmt::Debug)]
                #vis struct #ident #generics { vars: #krate::__rt::Vars }
            }
        }
        false => {
            let doc = format!(" Parameter paths of [`{}`]: one per layer.", model.ident);
            let lifetime = lifetime(model);
            let params = &generics.params;
            quote_spanned! {here()=>
                #[doc = #doc]
                #[derive(::core::fmt::Debug)]
                #vis struct #ident<#lifetime, #params> { path: #krate::__rt::Path<#lifetime> }
            }
        }
    }
}

/// Generates the methods, one per layer.
pub fn accessors(model: &Model) -> TokenStream {
    match model.has_devices {
        true => of_a_pipeline(model),
        false => of_a_block(model),
    }
}

/// The lifetime `'vars`, or a longer name if the user's struct has that one.
pub fn lifetime(model: &Model) -> TokenStream {
    let mut name = String::from("'vars");
    while model.generics.lifetimes().any(|param| param.lifetime.to_string() == name) {
        name.push('_');
    }
    Lifetime::new(&name, Span::mixed_site()).to_token_stream()
}

fn of_a_pipeline(model: &Model) -> TokenStream {
    let generics = vars_generics(model);
    let (generics, _, _) = generics.split_for_impl();
    let vars = vars_type(model, None);
    let methods = model.layers.iter().map(|layer| {
        let (name, doc, child) = (&layer.ident, doc(layer), layer.child());
        match &layer.shape {
            Shape::Single => quote_spanned! {here()=>
                #[doc = #doc]
                pub fn #name(&self) -> __rt::Path<'_> { self.vars.layer(#child) }
            },
            Shape::Array { len, .. } => {
                let len = outside_of_self(len, model);
                quote_spanned! {here()=>
                    #[doc = #doc]
                    pub fn #name(&self) -> [__rt::Path<'_>; #len] { self.vars.layers_array(#child) }
                }
            }
            Shape::List { .. } => quote_spanned! {here()=>
                #[doc = #doc]
                pub fn #name(&self, len: ::core::primitive::usize) -> ::std::vec::Vec<__rt::Path<'_>> {
                    self.vars.layers(#child, len)
                }
            },
        }
    });
    quote_spanned! {here()=>
        #[allow(dead_code)]
        impl #generics #vars { #(#methods)* }

        impl #generics ::core::ops::Deref for #vars {
            type Target = __rt::Vars;
            fn deref(&self) -> &__rt::Vars {
                &self.vars
            }
        }
    }
}

fn of_a_block(model: &Model) -> TokenStream {
    let constants = vars_generics(model);
    let params = constants.params.iter().cloned().map(without_default);
    let lifetime = lifetime(model);
    let vars = vars_type(model, Some(lifetime.clone()));
    let methods = model.layers.iter().map(|layer| {
        let (name, doc, child) = (&layer.ident, doc(layer), layer.child());
        match &layer.shape {
            Shape::Single => quote_spanned! {here()=>
                #[doc = #doc]
                pub fn #name(&self) -> __rt::Path<#lifetime> { self.path.sub(#child) }
            },
            Shape::Array { len, .. } => {
                let len = outside_of_self(len, model);
                quote_spanned! {here()=>
                    #[doc = #doc]
                    pub fn #name(&self) -> [__rt::Path<#lifetime>; #len] { __rt::sub_paths(&self.path, #child) }
                }
            }
            Shape::List { .. } => quote_spanned! {here()=>
                #[doc = #doc]
                pub fn #name(&self, len: ::core::primitive::usize) -> ::std::vec::Vec<__rt::Path<#lifetime>> {
                    __rt::sub_paths_vec(&self.path, #child, len)
                }
            },
        }
    });
    quote_spanned! {here()=>
        #[allow(dead_code)]
        impl<#lifetime, #(#params),*> #vars { #(#methods)* }
    }
}

fn doc(layer: &Layer) -> String {
    match &layer.shape {
        Shape::Single => format!(" Path of layer `{}`.", layer.child()),
        Shape::Array { .. } => format!(" Paths of the layers `{}`.", layer.child()),
        Shape::List { .. } => format!(" Paths of `len` layers `{}`.", layer.child()),
    }
}

fn without_default(param: GenericParam) -> GenericParam {
    match param {
        GenericParam::Const(mut constant) => {
            constant.default = None;
            GenericParam::Const(constant)
        }
        param => param,
    }
}
