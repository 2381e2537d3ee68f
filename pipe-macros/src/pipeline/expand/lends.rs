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
        let value = value(one);
        let send = send(model, plan, (&name, stage), &value);
        let is_read = plan.stages[stage]
            .steps
            .iter()
            .any(|step| model.layers[step.layer].reads().iter().any(|read| plain(read) == name));
        let lent = variable(&one.name, at);
        let local = is_read.then(|| quote_spanned!(at=> let #lent = #value;));
        [send, local].into_iter().flatten()
    })
}

/// `io.send_all(hop_0_memory, value);` to all stages that get the lent value `name` from this one.
fn send(model: &Model, plan: &Plan, (name, stage): (&str, usize), value: &TokenStream) -> Option<TokenStream> {
    let hop = plan.hops_from(name, stage).next()?;
    let at = sender(model, hop);
    let (ports, send) = (ports(hop, at), plan.send_all(name, stage, at));
    Some(quote_spanned!(at=> io.#send(#ports, #value);))
}

/// Receives the lent values of which `layer` is the first reader in the stage, and hands them on to
/// a later piece of it.
pub fn receive<'a>(
    model: &'a Model,
    layer: &'a Layer,
    plan: &'a Plan,
    stage: usize,
) -> impl Iterator<Item = TokenStream> {
    arriving(model, layer, plan, stage).map(move |hop| {
        let at = sender(model, hop);
        let (lent, port) = (variable(&hop.ident, at), port(hop, at));
        let hand_on = hand_on(model, plan, hop, stage, &lent);
        quote_spanned!(at=> let #lent = io.receive(#port); #hand_on)
    })
}

/// Sends a received value to later pieces of the stage, of which this is an earlier one.
fn hand_on(model: &Model, plan: &Plan, hop: &Hop, piece: usize, lent: &Ident) -> Option<TokenStream> {
    send(model, plan, (&hop.name, piece), &quote_spanned!(lent.span()=> __rt::keep(&#lent)))
}

/// The lent values that come from another stage and of which `layer` is the first reader there.
pub fn arriving<'a>(model: &'a Model, layer: &'a Layer, plan: &'a Plan, stage: usize) -> impl Iterator<Item = &'a Hop> {
    let hops = layer.reads().iter().filter_map(move |name| plan.hop_to(&plain(name), stage));
    hops.filter(|hop| model.layers[hop.reader].ident == layer.ident)
}

/// The numbers of lent values of which the runtime has a `Reading`.
const READINGS: std::ops::RangeInclusive<usize> = 1..=3;

/// Whether the layer takes lent values, and nothing else beside its input.
pub fn is_reader(layer: &Layer) -> bool {
    READINGS.contains(&layer.reads().len()) && layer.taken().len() == layer.reads().len()
}

/// `let reading = __rt::Reading2::new(&lent_mask, &lent_memory, cx);`, unless the reader before it
/// has the same one. rustc infers a method's types from its receiver. As arguments of each call,
/// lent values would double the time that it takes.
pub fn reading(model: &Model, plan: &Plan, (stage, position): (usize, usize)) -> Option<TokenStream> {
    let steps = &plan.stages[stage].steps;
    let layer = &model.layers[steps[position].layer];
    let names = |layer: &Layer| layer.reads().iter().map(plain).collect::<Vec<String>>();
    let mut readers = steps[..position].iter().map(|step| &model.layers[step.layer]);
    let last = readers.rfind(|layer| !layer.is_repeated() && is_reader(layer));
    if last.is_some_and(|last| names(last) == names(layer)) {
        return None;
    }
    let at = site(layer);
    let lent = layer.reads().iter().map(|name| variable(name, at));
    let reading = format_ident!("Reading{}", layer.reads().len(), span = at);
    Some(quote_spanned!(at=> let reading = __rt::#reading::new(#(&#lent,)* cx);))
}

/// Drops all that the layer has read and no later layer of the stage reads.
pub fn drop_read(model: &Model, plan: &Plan, (stage, position): (usize, usize)) -> Option<TokenStream> {
    let steps = &plan.stages[stage].steps;
    let layer = &model.layers[steps[position].layer];
    let later = || steps[position + 1..].iter().flat_map(|step| model.layers[step.layer].reads());
    let is_done = |name: &&Ident| {
        let text = plain(name);
        later().all(|other| plain(other) != text)
    };
    let at = site(layer);
    let done: Vec<Ident> = layer.reads().iter().filter(is_done).map(|name| variable(name, at)).collect();
    match &done[..] {
        [] => None,
        [one] => Some(quote_spanned!(at=> __rt::release(#one);)),
        several => Some(quote_spanned!(at=> __rt::release((#(#several),*));)),
    }
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

/// The port through which a lent value goes to a stage: `hop_0_memory.to(1)`.
fn port(hop: &Hop, at: Span) -> TokenStream {
    let (ports, to) = (ports(hop, at), Literal::usize_unsuffixed(hop.to));
    quote_spanned!(at=> #ports.to(#to))
}

/// The variable of the ports through which a lent value leaves a stage.
pub fn ports(hop: &Hop, at: Span) -> Ident {
    Ident::new(&format!("hop_{}_{}", hop.from, hop.name), at)
}
