//! Generates arrays whose layers do more than take a value and give one: they read what is lent,
//! add to sums, and stash and pop a skip each. One layer after the other gets the state that flows
//! from layer to layer: `(x, sums, each_level)`.

use proc_macro2::{Ident, Literal, Span, TokenStream};
use quote::{ToTokens, format_ident, quote, quote_spanned};

use super::body::{self, kept, site, skip};
use super::lends;
use super::plan_constant::split;
use crate::pipeline::declaration::Kept;
use crate::pipeline::model::{Layer, Model};
use crate::pipeline::plan::{Plan, Share, Split, Step};
use crate::support::names::plain;

/// Whether each layer takes a value and gives one, and nothing else.
pub fn is_plain(layer: &Layer) -> bool {
    layer.reads.is_empty() && layer.sums().is_empty() && lists(layer).is_empty()
}

/// `let (x, sums) = __rt::each((x, sums), layers, cx, "layers", |(x, sums), layer, cx| { .. });`,
/// with the skips that it takes before, and those that it gives after. What no later layer of the
/// stage reads is dropped.
pub fn run_all(model: &Model, plan: &Plan, place: (usize, usize), binding: &Ident) -> TokenStream {
    let step = &plan.stages[place.0].steps[place.1];
    let layer = &model.layers[step.layer];
    let (at, child) = (site(layer), layer.child());
    let state = state(layer, !layer.sums().is_empty());
    let element = element(model, layer);
    let (none, joined) = (no_skips(layer), join(model, plan, step));
    let given = give(model, plan, step, &binding.to_token_stream());
    let taken = layer.pops_of_each().map(|name| {
        let (list, name) = (list(name, at), plain(name));
        quote_spanned!(at=> __rt::all_taken(#list, #name);)
    });
    let done = lends::drop_read(model, plan, place);
    quote_spanned! {at=>
        #none
        #joined
        let #state = __rt::each(#state, #binding, cx, #child, |#state, layer, cx| { #element #state });
        #given
        #(#taken)*
        #done
    }
}

/// Runs the layer with the number `number` of `layers`, which is recomputed alone. Its state is a
/// part of what flows.
pub fn run_one(model: &Model, layer: &Layer, plan: &Plan, piece: usize) -> TokenStream {
    let (at, child) = (site(layer), layer.child());
    if is_plain(layer) {
        return quote_spanned!(at=> let x = __rt::run_one(x, layers, number, cx, #child););
    }
    let receive = lends::receive_each(model, layer, plan, piece);
    let state = state(layer, !layer.sums().is_empty());
    let element = element(model, layer);
    quote_spanned! {at=>
        #receive
        let #state = __rt::one(#state, layers, number, cx, #child, |#state, layer, cx| { #element #state });
    }
}

/// `x`, or `(x, sums, each_level)`.
pub fn state(layer: &Layer, with_sums: bool) -> TokenStream {
    let at = site(layer);
    let sums = with_sums.then(|| Ident::new("sums", at));
    let beside: Vec<Ident> = sums.into_iter().chain(lists(layer).into_iter().map(|name| list(name, at))).collect();
    body::with_skips(at, &beside)
}

/// The body for one layer: it takes `x` and what belongs to it, and gives `x` and the rest.
fn element(model: &Model, layer: &Layer) -> TokenStream {
    let at = site(layer);
    let popped = layer.pops_of_each().map(|name| {
        let (list, skip, name) = (list(name, at), skip(name, at), plain(name));
        quote_spanned!(at=> let (#list, #skip) = __rt::take_skip(#list, #name);)
    });
    let keep = |what: Kept| -> TokenStream {
        let stashes = layer.stashes_of_each().filter(|stash| stash.kept == what);
        let keep = stashes.map(|stash| {
            let (skip, kept) = (skip(&stash.name, at), kept(layer, stash));
            quote_spanned!(at=> let #skip = #kept;)
        });
        keep.collect()
    };
    let taken = body::taken(layer);
    let (before, after) = (keep(Kept::Input), keep(Kept::Output));
    let run = body::run(model, layer, &taken, |input: &dyn ToTokens| quote_spanned!(at=> __rt::run(#input, layer, cx)));
    let put = layer.stashes_of_each().map(|stash| {
        let (list, skip) = (list(&stash.name, at), skip(&stash.name, at));
        quote_spanned!(at=> let #list = __rt::put_skip(#list, #skip);)
    });
    quote!(#(#popped)* #before #run #after #(#put)*)
}

/// `let each_level = __rt::no_skips();` for what each layer stashes.
fn no_skips(layer: &Layer) -> TokenStream {
    none(layer, layer.stashes_of_each().map(|stash| &stash.name))
}

/// The same for what each layer pops, too, before anything was received.
pub fn no_skips_yet(layer: &Layer) -> TokenStream {
    none(layer, lists(layer).into_iter())
}

fn none<'n>(layer: &Layer, names: impl Iterator<Item = &'n Ident>) -> TokenStream {
    let at = site(layer);
    let none = names.map(|name| {
        let list = list(name, at);
        quote_spanned!(at=> let #list = __rt::no_skips();)
    });
    none.collect()
}

/// `let each_level = __rt::join_skips([io.receive(share_0_0_level), share_1_0_level]);` for what
/// each layer pops, from all parts that stash it.
pub fn join(model: &Model, plan: &Plan, step: &Step) -> TokenStream {
    let layer = &model.layers[step.layer];
    let at = site(layer);
    let joined = layer.pops_of_each().map(|name| {
        let parts = plan.shares_to(step.layer, step.part, name).into_iter().map(|share| {
            let at = sender(model, share);
            let part = part(share, at);
            if share.crosses() { quote_spanned!(at=> io.receive(#part)) } else { part.to_token_stream() }
        });
        let list = list(name, at);
        quote_spanned!(at=> let #list = __rt::join_skips([#(#parts),*]);)
    });
    joined.collect()
}

/// `io.send(share_0_1_level, __rt::matching(&each_level, layers, Split::Evenly(2), 1));` for what
/// each layer stashes, to all parts that pop it; a local variable for one of the same stage.
pub fn give(model: &Model, plan: &Plan, step: &Step, layers: &TokenStream) -> TokenStream {
    let layer = &model.layers[step.layer];
    let given = layer.stashes_of_each().flat_map(|stash| {
        plan.shares_from(step.layer, step.part, &stash.name).into_iter().map(|share| {
            let at = sender(model, share);
            let (list, part) = (list(&stash.name, at), part(share, at));
            let (split, number) = (popping_split(model, plan, share), Literal::usize_unsuffixed(share.pop.1));
            let matching = quote_spanned!(at=> __rt::matching(&#list, #layers, #split, #number));
            let send = plan.send(share.from, share.to, at);
            match share.crosses() {
                true => quote_spanned!(at=> io.#send(#part, #matching);),
                false => quote_spanned!(at=> let #part = #matching;),
            }
        })
    });
    given.collect()
}

/// How the layers that pop are divided in this plan.
fn popping_split(model: &Model, plan: &Plan, share: &Share) -> TokenStream {
    let mut steps = plan.stages[share.to].steps.iter();
    let whole = steps.any(|step| step.layer == share.pop.0 && step.parts == 1);
    let of_layer = model.layers[share.pop.0].split().filter(|_| !whole);
    split(&of_layer.unwrap_or(Split::Evenly(1)))
}

/// The names of the skips of each layer.
fn lists(layer: &Layer) -> Vec<&Ident> {
    layer.pops_of_each().chain(layer.stashes_of_each().map(|stash| &stash.name)).collect()
}

/// The variable for a skip of all layers of an array.
fn list(name: &Ident, at: Span) -> Ident {
    Ident::new(&format!("each_{}", plain(name)), at)
}

/// The variable of the port through which skips go from one part to another, or for these skips
/// themselves within a stage.
pub fn part(share: &Share, at: Span) -> Ident {
    format_ident!("share_{}_{}_{}", share.stash.1, share.pop.1, share.name, span = at)
}

/// rustc reports there that the skips cannot cross.
pub fn sender(model: &Model, share: &Share) -> Span {
    site(&model.layers[share.stash.0])
}
