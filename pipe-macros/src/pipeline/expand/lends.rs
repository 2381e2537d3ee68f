//! Generates how lent values go from the layer that lends them to those that read them: as local
//! variables within a stage, through ports to others.

use proc_macro2::{Ident, Span, TokenStream};
use quote::quote_spanned;

use super::body::site;
use crate::pipeline::declaration::{Kept, Stash};
use crate::pipeline::model::{Layer, Model};
use crate::pipeline::plan::{Hop, Plan};
use crate::support::names::plain;

/// The code for what the layer lends of the kind `what`: a local variable for the layers of this
/// stage, and a send for each other stage.
pub fn lend(
    model: &Model,
    layer: &Layer,
    plan: &Plan,
    stage: usize,
    what: Kept,
    value: impl Fn(&Stash) -> TokenStream,
) -> TokenStream {
    let at = site(layer);
    let lends = layer.lends().iter().filter(|lend| lend.kept == what);
    lends
        .flat_map(|one| {
            let name = plain(&one.name);
            let value = value(one);
            let sends = plan.hops_from(&name, stage).map(|hop| send(model, plan, hop, &value));
            let sends: Vec<TokenStream> = sends.collect();
            let is_read = plan.stages[stage]
                .steps
                .iter()
                .any(|step| model.layers[step.layer].reads().iter().any(|read| plain(read) == name));
            let lent = variable(&one.name, at);
            let local = is_read.then(|| quote_spanned!(at=> let #lent = #value;));
            sends.into_iter().chain(local)
        })
        .collect()
}

fn send(model: &Model, plan: &Plan, hop: &Hop, value: &TokenStream) -> TokenStream {
    let at = sender(model, hop);
    let (port, send) = (port(hop, at), plan.send(hop.from, hop.to, at));
    quote_spanned!(at=> io.#send(#port, #value);)
}

/// Receives the lent values of which `layer` is the first reader in the stage, and hands them on to
/// a later piece of it.
pub fn receive(model: &Model, layer: &Layer, plan: &Plan, stage: usize) -> TokenStream {
    arriving(model, layer, plan, stage)
        .map(|hop| {
            let at = sender(model, hop);
            let (lent, port) = (variable(&hop.ident, at), port(hop, at));
            let hand_on = hand_on(model, plan, hop, stage, &lent);
            quote_spanned!(at=> let #lent = io.receive(#port); #hand_on)
        })
        .collect()
}

/// Sends a received value to later pieces of the stage, of which this is an earlier one.
fn hand_on(model: &Model, plan: &Plan, hop: &Hop, piece: usize, lent: &Ident) -> TokenStream {
    let value = quote_spanned!(lent.span()=> __rt::keep(&#lent));
    plan.hops_from(&hop.name, piece).map(|next| send(model, plan, next, &value)).collect()
}

/// The lent values that come from another stage and of which `layer` is the first reader there.
pub fn arriving<'a>(model: &'a Model, layer: &'a Layer, plan: &'a Plan, stage: usize) -> impl Iterator<Item = &'a Hop> {
    let hops = layer.reads().iter().filter_map(move |name| plan.hop_to(&plain(name), stage));
    hops.filter(|hop| model.layers[hop.reader].ident == layer.ident)
}

/// Whether a layer of the stage after this one reads the lent value.
pub fn reads_later(model: &Model, plan: &Plan, (stage, position): (usize, usize), name: &Ident) -> bool {
    let later = &plan.stages[stage].steps[position + 1..];
    let mut read = later.iter().flat_map(|step| model.layers[step.layer].reads());
    read.any(|other| plain(other) == plain(name))
}

/// Receives what one of repeated layers reads that are recomputed one by one. Each hands it on to
/// the next one.
pub fn receive_each(model: &Model, layer: &Layer, plan: &Plan, piece: usize) -> TokenStream {
    let hops = layer.reads().iter().filter_map(|name| plan.hop_to(&plain(name), piece));
    let receive = hops.map(|hop| {
        let at = site(layer);
        let (lent, port) = (variable(&hop.ident, at), port(hop, sender(model, hop)));
        let hand_on = hand_on(model, plan, hop, piece, &lent);
        quote_spanned! {at=>
            let #lent = io.receive_each(#port, layers, number);
            if number == 0 {
                #hand_on
            }
        }
    });
    receive.collect()
}

/// The local variable that holds a lent value.
pub fn variable(name: &Ident, at: Span) -> Ident {
    Ident::new(&format!("lent_{}", plain(name)), at)
}

/// rustc reports there that a lent value cannot cross.
pub fn sender(model: &Model, hop: &Hop) -> Span {
    site(&model.layers[hop.lender])
}

/// The variable of the port through which a lent value goes to a stage.
pub fn port(hop: &Hop, at: Span) -> Ident {
    Ident::new(&format!("hop_{}_{}", hop.to, hop.name), at)
}
