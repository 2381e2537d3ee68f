//! Generates how lent values go from the layer that lends them to those that read them: as local
//! variables within a stage, through ports to others.

use proc_macro2::{Ident, Literal, Span, TokenStream};
use quote::{format_ident, quote_spanned};

use super::body::site;
use crate::pipeline::declaration::{Kept, Stash};
use crate::pipeline::model::{Layer, Model};
use crate::pipeline::plan::{Hop, Plan};
use crate::support::names::plain;

/// The code for what the layer lends of the kind `what`: a local variable for the layers of this
/// stage, and a send to the other stages.
pub fn lend<'a>(
    model: &'a Model,
    layer: &'a Layer,
    plan: &'a Plan,
    stage: usize,
    what: Kept,
    value: impl Fn(&Stash) -> TokenStream,
) -> impl Iterator<Item = TokenStream> {
    let lends = layer.lends().iter().filter(move |lend| lend.kept == what);
    lends.flat_map(move |one| {
        let (name, at) = (plain(&one.name), site(layer));
        let lent = model.lent.iter().position(|lent| lent.name == name).expect("the model lists what is lent");
        let value = value(one);
        let send = send(model, plan, (lent, stage), &value);
        let mut reads = plan.stages[stage].steps.iter().flat_map(|step| &model.layers[step.layer].reads);
        let is_read = reads.any(|read| read.lent == lent);
        let lent = variable(&one.name, at);
        let local = is_read.then(|| quote_spanned!(at=> let #lent = #value;));
        [send, local].into_iter().flatten()
    })
}

/// `io.send_all(hop_0_memory, value);` to all stages that get the lent value `lent` from this one.
fn send(model: &Model, plan: &Plan, (lent, stage): (usize, usize), value: &TokenStream) -> Option<TokenStream> {
    let hop = plan.hops_from(lent, stage).next()?;
    let at = sender(model, hop);
    let (ports, send) = (ports(hop, at), plan.send_all(lent, stage, at));
    Some(quote_spanned!(at=> io.#send(#ports, #value);))
}

/// Receives the lent values of which `layer` is the first reader in the stage, and hands them on to
/// a later piece of it.
pub fn receive<'a>(model: &'a Model, layer: usize, plan: &'a Plan, stage: usize) -> impl Iterator<Item = TokenStream> {
    arriving(model, layer, plan, stage).map(move |hop| {
        let at = sender(model, hop);
        let (lent, ports, to) = (variable(&hop.ident, at), ports(hop, at), Literal::usize_unsuffixed(hop.to));
        let hand_on = hand_on(model, plan, hop, stage, &lent);
        quote_spanned!(at=> let #lent = io.receive_lent(#ports, #to); #hand_on)
    })
}

/// Sends a received value to later pieces of the stage, of which this is an earlier one.
fn hand_on(model: &Model, plan: &Plan, hop: &Hop, piece: usize, lent: &Ident) -> Option<TokenStream> {
    send(model, plan, (hop.lent, piece), &quote_spanned!(lent.span()=> __rt::keep(&#lent)))
}

/// The lent values that come from another stage and of which `layer` is the first reader there.
pub fn arriving<'a>(model: &'a Model, layer: usize, plan: &'a Plan, stage: usize) -> impl Iterator<Item = &'a Hop> {
    let hops = model.layers[layer].reads.iter().filter_map(move |read| plan.hop_to(read.lent, stage));
    hops.filter(move |hop| hop.reader == layer)
}

/// The numbers of lent values of which the runtime has a `Reading`.
const READINGS: std::ops::RangeInclusive<usize> = 1..=3;

/// Whether the layer takes lent values, and nothing else beside its input.
pub fn is_reader(layer: &Layer) -> bool {
    READINGS.contains(&layer.reads.len()) && layer.pops().is_empty()
}

/// `let reading = __rt::Reading2::new(&lent_mask, &lent_memory, cx);`, unless the reader before it
/// has the same one. rustc infers a method's types from its receiver. As arguments of each call,
/// lent values would double the time that it takes.
pub fn reading(model: &Model, plan: &Plan, (stage, position): (usize, usize)) -> Option<TokenStream> {
    let steps = &plan.stages[stage].steps;
    let layer = &model.layers[steps[position].layer];
    let mut readers = steps[..position].iter().map(|step| &model.layers[step.layer]);
    let last = readers.rfind(|layer| !layer.is_repeated() && is_reader(layer));
    if last.is_some_and(|last| last.reads.iter().map(|read| read.lent).eq(layer.reads.iter().map(|read| read.lent))) {
        return None;
    }
    let at = site(layer);
    let lent = layer.reads.iter().map(|read| variable(&read.name, at));
    let reading = format_ident!("Reading{}", layer.reads.len(), span = at);
    Some(quote_spanned!(at=> let reading = __rt::#reading::new(#(&#lent,)* cx);))
}

/// Drops all that the layer has read and no later layer of the stage reads. After the last layer,
/// the end of the stage does so.
pub fn drop_read(model: &Model, plan: &Plan, (stage, position): (usize, usize)) -> Option<TokenStream> {
    let (steps, later) = plan.stages[stage].steps.split_at(position + 1);
    let layer = &model.layers[steps[position].layer];
    if later.is_empty() {
        return None;
    }
    let later = || later.iter().flat_map(|step| &model.layers[step.layer].reads);
    let done = layer.reads.iter().filter(|read| later().all(|other| other.lent != read.lent));
    let at = site(layer);
    let done: Vec<Ident> = done.map(|read| variable(&read.name, at)).collect();
    match &done[..] {
        [] => None,
        [one] => Some(quote_spanned!(at=> __rt::release(#one);)),
        several => Some(quote_spanned!(at=> __rt::release((#(#several),*));)),
    }
}

/// Receives what one of repeated layers reads that are recomputed one by one. Each hands it on to
/// the next one.
pub fn receive_each(model: &Model, layer: &Layer, plan: &Plan, piece: usize) -> TokenStream {
    let hops = layer.reads.iter().filter_map(|read| plan.hop_to(read.lent, piece));
    let receive = hops.map(|hop| {
        let at = site(layer);
        let (lent, to) = (variable(&hop.ident, at), Literal::usize_unsuffixed(hop.to));
        let ports = ports(hop, sender(model, hop));
        let hand_on = hand_on(model, plan, hop, piece, &lent);
        quote_spanned! {at=>
            let #lent = io.receive_each(#ports, #to, layers, number);
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

/// The variable of the ports through which a lent value leaves a stage.
pub fn ports(hop: &Hop, at: Span) -> Ident {
    Ident::new(&format!("hop_{}_{}", hop.from, hop.name), at)
}
