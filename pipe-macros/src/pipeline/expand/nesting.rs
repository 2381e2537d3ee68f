//! Generates compile-time checks that no layer is itself a model with devices. The macro cannot
//! tell; only rustc, which knows the layer's type, can. A type that mentions a generic parameter of
//! the struct is not concrete here, so it is not checked.

use std::collections::HashSet;

use proc_macro2::{TokenStream, TokenTree};
use quote::{ToTokens, quote_spanned};

use super::body::site;
use super::here;
use crate::pipeline::model::{Layer, Model};

/// One check per distinct layer type:
/// `const _: () = __rt::nests(__rt::Nested::<Encode>::HAS_DEVICES);`
pub fn questions(model: &Model) -> TokenStream {
    let parameters: HashSet<String> = parameters(model).collect();
    let mut asked = HashSet::new();
    let questions: Vec<TokenStream> = model
        .layers
        .iter()
        .map(|layer| (layer, layer.shape.layer().unwrap_or(&layer.ty).to_token_stream()))
        .filter(|(_, ty)| !mentions(ty.clone(), &parameters) && asked.insert(ty.to_string()))
        .map(|(layer, ty)| question(layer, &ty))
        .collect();
    if questions.is_empty() {
        return TokenStream::new();
    }
    quote_spanned! {here()=>
        use __rt::NestedByDefault as _;
        #(#questions)*
    }
}

fn question(layer: &Layer, ty: &TokenStream) -> TokenStream {
    let answer = quote_spanned!(site(layer)=> __rt::nests(__rt::Nested::<#ty>::HAS_DEVICES));
    quote_spanned!(here()=> const _: () = #answer;)
}

/// All names that have a meaning only inside the struct: its generic parameters and `Self`.
fn parameters(model: &Model) -> impl Iterator<Item = String> {
    let generics = &model.generics;
    let types = generics.type_params().map(|param| &param.ident);
    let constants = generics.const_params().map(|param| &param.ident);
    let lifetimes = generics.lifetimes().map(|param| &param.lifetime.ident);
    types.chain(constants).chain(lifetimes).map(ToString::to_string).chain(["Self".to_owned()])
}

/// Whether the tokens contain one of these names.
pub fn mentions(ty: TokenStream, names: &HashSet<String>) -> bool {
    ty.into_iter().any(|token| match token {
        TokenTree::Group(group) => mentions(group.stream(), names),
        TokenTree::Ident(ident) => names.contains(&ident.to_string()),
        TokenTree::Punct(_) | TokenTree::Literal(_) => false,
    })
}
