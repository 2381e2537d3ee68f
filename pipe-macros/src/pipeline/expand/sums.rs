//! Generates how what layers add up goes through the model: beside the value that flows from layer
//! to layer, in the variable `sums`, from the first layer that adds something on.

use proc_macro2::{Ident, Literal, Span, TokenStream};
use quote::{format_ident, quote_spanned};

use super::body::site;
use super::here;
use crate::pipeline::model::{Layer, Model};
use crate::pipeline::plan::{Plan, Stage};
use crate::support::names::plain;

/// Whether layers of these stages add something up.
pub fn add(model: &Model, stages: &[Stage]) -> bool {
    stages.iter().flat_map(|stage| &stage.steps).any(|step| !model.layers[step.layer].sums().is_empty())
}

/// `x`, or `(x, sums)` where something has been added up: what flows into piece `piece`.
pub fn flow(model: &Model, plan: &Plan, piece: usize, at: Span) -> TokenStream {
    match add(model, &plan.stages[..piece]) {
        true => quote_spanned!(at=> (x, sums)),
        false => quote_spanned!(at=> x),
    }
}

/// `let sums = __rt::no_sums::<2>();`, for the piece with the first layers that add something.
pub fn begin(model: &Model, plan: &Plan, piece: usize) -> Option<TokenStream> {
    let begins = !add(model, &plan.stages[..piece]) && add(model, &plan.stages[piece..=piece]);
    begins.then(|| {
        let none = none(model);
        quote_spanned!(here()=> let sums = #none;)
    })
}

/// `__rt::no_sums::<2>()`
pub fn none(model: &Model) -> TokenStream {
    let count = Literal::usize_unsuffixed(model.settings.sums().len());
    quote_spanned!(here()=> __rt::no_sums::<#count>())
}

/// `let (x, sums) = __rt::add_all::<1, _, _>(returned, sums, [(0, "balance")], "gate");`: adds what
/// a layer returns beside its output.
pub fn add_returned(model: &Model, layer: &Layer, returned: &TokenStream) -> TokenStream {
    let (at, child) = (site(layer), layer.child());
    // It is written out, for messages about types.
    let count = Literal::usize_unsuffixed(layer.sums().len());
    let names = layer.sums().iter().map(|name| {
        let name = plain(name);
        let number = model.settings.sums().iter().position(|sum| plain(&sum.name) == name);
        let number = Literal::usize_unsuffixed(number.unwrap_or(0));
        quote_spanned!(at=> (#number, #name))
    });
    quote_spanned!(at=> let (x, sums) = __rt::add_all::<#count, _, _>(#returned, sums, [#(#names),*], #child);)
}

/// The variable of what a layer returns to add up.
pub fn variable(name: &Ident, at: Span) -> Ident {
    Ident::new(&format!("sum_{}", plain(name)), at)
}

/// The model's output: `x`, or a tuple `(x, __rt::slot::<Mean, true>(sum_0, "balance"))`.
pub fn output(model: &Model, at: Span) -> TokenStream {
    let slots = model.settings.sums();
    if slots.is_empty() {
        return quote_spanned!(at=> x);
    }
    let is_pipeline = model.has_devices;
    let sums: Vec<Ident> = (0..slots.len()).map(|number| format_ident!("sum_{number}", span = at)).collect();
    let values = slots.iter().zip(&sums).map(|(slot, sum)| {
        let (ty, name) = (&slot.ty, plain(&slot.name));
        quote_spanned!(at=> __rt::slot::<#ty, #is_pipeline>(#sum, #name))
    });
    quote_spanned! {at=> {
        let [#(#sums),*] = sums;
        (x, #(#values),*)
    } }
}
