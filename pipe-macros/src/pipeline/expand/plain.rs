//! The fields that are not layers, as a separate value: `UNetPlain { config }`.
//!
//! It is a struct and not a tuple, because a public trait's type must not be a tuple of private
//! types.

use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote, quote_spanned};

use super::here;
use crate::pipeline::model::Model;

/// Type of the struct, or `()` if all fields are layers.
pub fn type_name(model: &Model) -> TokenStream {
    if model.plain_fields.is_empty() {
        return quote!(());
    }
    let ident = ident(model);
    let (_, arguments, _) = model.generics.split_for_impl();
    quote!(#ident #arguments)
}

/// The struct; its fields have the visibility of the user's fields.
pub fn definition(model: &Model) -> Option<TokenStream> {
    if model.plain_fields.is_empty() {
        return None;
    }
    let (ident, owner) = (ident(model), &model.ident);
    let (_, arguments, bounds) = model.generics.split_for_impl();
    let generics = &model.generics;
    let fields = model.plain_fields.iter().map(|field| {
        let (vis, ident, ty) = (&field.vis, &field.ident, &field.ty);
        quote!(#vis #ident: #ty)
    });
    let uses_all_generics = is_generic(model)
        .then(|| quote_spanned!(here()=> owner: ::core::marker::PhantomData<fn() -> #owner #arguments>));
    Some(quote_spanned! {here()=>
        #[allow(dead_code, private_bounds, private_interfaces)]
        pub struct #ident #generics #bounds { #(#fields,)* #uses_all_generics }
    })
}

/// The value or pattern `UNetPlain { config }`, where the fields are local variables.
pub fn value(model: &Model) -> TokenStream {
    if model.plain_fields.is_empty() {
        return quote!(());
    }
    let ident = ident(model);
    let fields = model.plain_fields.iter().map(|field| &field.ident);
    let owner = is_generic(model).then(|| quote_spanned!(here()=> owner: ::core::marker::PhantomData));
    quote!(#ident { #(#fields,)* #owner })
}

fn is_generic(model: &Model) -> bool {
    !model.generics.params.is_empty()
}

fn ident(model: &Model) -> Ident {
    format_ident!("{}Plain", model.ident, span = here())
}
