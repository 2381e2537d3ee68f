//! Calls of the layers, which are the body of a stage and of the unpipelined run.
//!
//! All tokens of a call have the span of the name of the layer's type, so that a type error points
//! there. A stage and the unpipelined run must have the same tokens with the same spans, so that
//! rustc reports an error in a layer once instead of twice.

use proc_macro2::{Ident, Literal, Span, TokenStream};
use quote::{format_ident, quote_spanned};

use super::here;
use crate::pipeline::declaration::Kept;
use crate::pipeline::model::{Layer, Model};
use crate::pipeline::plan::{Plan, Route, Step};
use crate::support::names::plain;

/// Calls all layers of stage `stage`. The local `x` holds the input before and the output after.
pub fn calls(model: &Model, plan: &Plan, stage: usize) -> TokenStream {
    plan.stages[stage].steps.iter().map(|step| call(model, plan, step)).collect()
}

/// Calls one layer, with its stashes and pops.
fn call(model: &Model, plan: &Plan, step: &Step) -> TokenStream {
    let layer = &model.layers[step.layer];
    let binding = on_type(layer, binding(model, step));
    let (is_first, is_last) = (step.part == 0, step.part + 1 == step.parts);
    let mut tokens = TokenStream::new();
    if is_first {
        tokens.extend(keep(layer, plan, Kept::Input, &quote_spanned!(site(layer)=> __rt::keep(&x))));
        tokens.extend(keep(layer, plan, Kept::Tied, &quote_spanned!(site(layer)=> __rt::lend(#binding))));
        tokens.extend(receive(model, layer, plan));
    }
    tokens.extend(match layer.is_repeated() {
        true => run_each(layer, &binding),
        false => run(layer, &binding),
    });
    if is_last {
        tokens.extend(send_returned(layer, plan));
        tokens.extend(keep(layer, plan, Kept::Output, &quote_spanned!(site(layer)=> __rt::keep(&x))));
    }
    tokens
}

/// Generates `let x = __rt::pass(x, layer, cx, "layer");`, or for a layer that returns skips,
/// `let (x, skip_a) = __rt::with_skips::<1, _>(..);`.
fn run(layer: &Layer, binding: &Ident) -> TokenStream {
    let (at, child) = (site(layer), layer.child());
    let popped: Vec<Ident> = layer.pops().iter().map(|name| skip(name, at)).collect();
    let returned: Vec<Ident> = returned(layer).map(|name| skip(name, at)).collect();
    let input = with_skips(at, &popped);
    let output = with_skips(at, &returned);
    let call = quote_spanned!(at=> __rt::pass(#input, #binding, cx, #child));
    match returned.len() {
        0 => quote_spanned!(at=> let #output = #call;),
        skips => {
            let skips = Literal::usize_unsuffixed(skips);
            quote_spanned!(at=> let #output = __rt::with_skips::<#skips, _>(#call);)
        }
    }
}

/// Generates `x`, or `(x, skip_a, skip_b)`.
fn with_skips(at: Span, skips: &[Ident]) -> TokenStream {
    match skips.is_empty() {
        true => quote_spanned!(at=> x),
        false => quote_spanned!(at=> (x #(, #skips)*)),
    }
}

fn run_each(layer: &Layer, binding: &Ident) -> TokenStream {
    let child = layer.child();
    quote_spanned!(site(layer)=> let x = __rt::run_each(x, #binding, cx, #child);)
}

/// Stores the values that a layer keeps besides the returned ones: another handle to `x` for
/// `#[stash(a = input)]` and `#[stash(a = output)]`, and the lent value for `#[stash(a = tied)]`.
fn keep(layer: &Layer, plan: &Plan, what: Kept, value: &TokenStream) -> TokenStream {
    let at = site(layer);
    let kept = layer.stashes().iter().filter(|stash| stash.kept == what);
    kept.filter_map(|stash| plan.route(&stash.name)).map(|route| store(route, at, value)).collect()
}

/// Receives the skips that a layer pops. It does so right before the layer, because a received
/// value that waits takes memory on two devices.
fn receive(model: &Model, layer: &Layer, plan: &Plan) -> TokenStream {
    arriving(layer, plan)
        .map(|route| {
            let at = site(&model.layers[route.stash]);
            let (skip, port) = (route_skip(route, at), port(route, at));
            quote_spanned!(at=> let #skip = io.receive(#port);)
        })
        .collect()
}

/// Skips that `layer` pops and another stage stashes.
pub fn arriving<'a>(layer: &'a Layer, plan: &'a Plan) -> impl Iterator<Item = &'a Route> {
    layer.pops().iter().filter_map(|name| plan.route(name)).filter(|route| route.crosses())
}

fn send_returned(layer: &Layer, plan: &Plan) -> TokenStream {
    let at = site(layer);
    returned(layer)
        .filter_map(|name| plan.route(name))
        .filter(|route| route.crosses())
        .map(|route| {
            let skip = route_skip(route, at);
            store(route, at, &quote_spanned!(at=> #skip))
        })
        .collect()
}

/// Sends the value to its stage, or holds it in a local if it is popped in the same stage.
fn store(route: &Route, at: Span, value: &TokenStream) -> TokenStream {
    match route.crosses() {
        true => {
            let port = port(route, at);
            quote_spanned!(at=> io.send(#port, #value);)
        }
        false => {
            let skip = route_skip(route, at);
            quote_spanned!(at=> let #skip = #value;)
        }
    }
}

fn returned(layer: &Layer) -> impl Iterator<Item = &Ident> {
    layer.stashes().iter().filter(|stash| stash.kept == Kept::Returned).map(|stash| &stash.name)
}

/// Name of the local that holds a skip.
fn skip(name: &Ident, at: Span) -> Ident {
    Ident::new(&format!("skip_{}", plain(name)), at)
}

fn route_skip(route: &Route, at: Span) -> Ident {
    skip(&route.ident, at)
}

/// Name of the port on which a skip crosses stages.
pub fn port(route: &Route, at: Span) -> Ident {
    Ident::new(&format!("port_{}", route.name), at)
}

/// Name of the local for the layers of a step: the field's name, with a number if there are several
/// parts. Its hygiene is that of the user's code, so it must differ from all other fields' names.
pub fn binding(model: &Model, step: &Step) -> Ident {
    let field = &model.layers[step.layer].ident;
    if step.parts == 1 {
        return field.clone();
    }
    let mut part = format_ident!("{}_{}", field, step.part);
    while model.field_names().any(|name| *name == part) {
        part = format_ident!("{}_", part);
    }
    part
}

/// Moves the location of a name to the layer's type.
pub fn on_type(layer: &Layer, mut name: Ident) -> Ident {
    name.set_span(name.span().located_at(layer.span()));
    name
}

/// Span for generated code that belongs to the layer.
pub fn site(layer: &Layer) -> Span {
    here().located_at(layer.span())
}
