//! Generates the calls of the layers, in order. They are the body of a stage, and of the
//! unpipelined run.
//!
//! All tokens of a call have the span of the layer's type, so that rustc reports a type mismatch
//! there. A stage and the unpipelined run must have the same tokens with the same spans: rustc then
//! reports each problem of a layer once, not twice.

use proc_macro2::{Ident, Literal, Span, TokenStream};
use quote::{ToTokens, format_ident, quote_spanned};
use syn::spanned::Spanned;

use super::{each, here, lends, sums};
use crate::pipeline::declaration::{Kept, Shape, Stash};
use crate::pipeline::model::{Layer, Model, Taken};
use crate::pipeline::plan::{Plan, Route, Step};
use crate::support::names::plain;

/// The calls of all layers of stage `stage`. The variable `x` holds their input before them, and
/// their output after them.
pub fn calls(model: &Model, plan: &Plan, stage: usize) -> TokenStream {
    let mut code = Vec::new();
    for position in 0..plan.stages[stage].steps.len() {
        call(model, plan, (stage, position), &mut code);
    }
    code.into_iter().collect()
}

/// The call of the layer of one step, with the code around it that keeps and takes other values. It
/// is added to `code` piece by piece: streams of tokens within others would be copied each time.
fn call(model: &Model, plan: &Plan, (stage, position): (usize, usize), code: &mut Vec<TokenStream>) {
    let step = &plan.stages[stage].steps[position];
    let layer = &model.layers[step.layer];
    let binding = on_type(layer, binding(model, step));
    let (is_first, is_last) = (step.part == 0, step.part + 1 == step.parts);
    if is_first {
        code.extend(keep_end(model, layer, plan, stage, Kept::Input));
        let tied = |_: &Stash| quote_spanned!(site(layer)=> __rt::lend(#binding));
        code.extend(lends::lend(model, layer, plan, stage, Kept::Tied, tied));
        code.extend(receive(model, layer, plan));
    }
    code.extend(lends::receive(model, step.layer, plan, stage));
    let place = (stage, position);
    match layer.shape {
        Shape::Single => code.extend(single(model, layer, plan, place, &binding).into_iter().flatten()),
        Shape::Array { .. } | Shape::List { .. } if !each::is_plain(layer) => {
            code.push(each::run_all(model, plan, place, &binding));
        }
        Shape::Array { .. } | Shape::List { .. } => code.push(run_all(layer, &binding, &format_ident!("run_each"))),
        Shape::Optional { .. } => code.push(run_all(layer, &binding, &format_ident!("pass_if_some"))),
    }
    if is_last {
        code.extend(send_returned(layer, plan));
        code.extend(keep_end(model, layer, plan, stage, Kept::Output));
    }
}

/// `let x = __rt::pass(x, encode1, cx, "encode1");`. A layer that takes lent values and nothing
/// else beside `x` gets `let x = reading.pass(x, decode, "decode");`, with the statements around it
/// that make the `reading` and drop what was read.
fn single(
    model: &Model,
    layer: &Layer,
    plan: &Plan,
    place: (usize, usize),
    binding: &Ident,
) -> [Option<TokenStream>; 3] {
    let (at, child) = (site(layer), layer.child());
    let (reading, run) = match lends::is_reader(layer) {
        true => {
            let call = |input: &dyn ToTokens| quote_spanned!(at=> reading.pass(#input, #binding, #child));
            (lends::reading(model, plan, place), run(model, layer, &[], call))
        }
        false => {
            let call = |input: &dyn ToTokens| quote_spanned!(at=> __rt::pass(#input, #binding, cx, #child));
            (None, run(model, layer, &taken(layer), call))
        }
    };
    [reading, Some(run), lends::drop_read(model, plan, place)]
}

/// What the layer takes beside `x`, in its order: `skip_a`, or `__rt::keep(&lent_b)`.
pub fn taken(layer: &Layer) -> Vec<TokenStream> {
    let at = site(layer);
    let taken = layer.taken().into_iter().map(|taken| match taken {
        Taken::Popped(name) => skip(name, at).to_token_stream(),
        Taken::Read(name) => {
            let lent = lends::variable(name, at);
            quote_spanned!(at=> __rt::keep(&#lent))
        }
    });
    taken.collect()
}

/// `let x = __rt::pass(x, layer, cx, "layer");`, or, if the layer returns skips,
/// `let (x, skip_a) = __rt::with_skips::<1, _>(..);`. What it adds up follows. `call` makes the
/// call with this input.
pub fn run(
    model: &Model,
    layer: &Layer,
    taken: &[TokenStream],
    call: impl Fn(&dyn ToTokens) -> TokenStream,
) -> TokenStream {
    let at = site(layer);
    let skips: Vec<Ident> = returned(layer).map(|name| skip(name, at)).collect();
    let added: Vec<Ident> = layer.sums().iter().map(|name| sums::variable(name, at)).collect();
    // A name is copied for less than a stream of it alone.
    let call = match taken {
        [] => call(&Ident::new("x", at)),
        _ => call(&with_skips(at, taken)),
    };
    match (skips.is_empty(), added.is_empty()) {
        (true, true) => quote_spanned!(at=> let x = #call;),
        (true, false) => sums::add_returned(model, layer, &call),
        (false, _) => {
            let sums = (!added.is_empty()).then(|| sums::add_returned(model, layer, &with_skips(at, &added)));
            let returned = if layer.marks.sums_first { [added, skips] } else { [skips, added] }.concat();
            let count = Literal::usize_unsuffixed(returned.len());
            let output = with_skips(at, &returned);
            quote_spanned!(at=> let #output = __rt::with_skips::<#count, _>(#call); #sums)
        }
    }
}

/// Generates `x`, or `(x, skip_a, skip_b)`.
pub fn with_skips(at: Span, skips: &[impl ToTokens]) -> TokenStream {
    match skips.is_empty() {
        true => quote_spanned!(at=> x),
        false => quote_spanned!(at=> (x #(, #skips)*)),
    }
}

/// `let x = __rt::run_each(x, layers, cx, "layers");`, where `function` is the name of the callee.
fn run_all(layer: &Layer, binding: &Ident, function: &Ident) -> TokenStream {
    let child = layer.child();
    quote_spanned!(site(layer)=> let x = __rt::#function(x, #binding, cx, #child);)
}

/// The code for the layer's stashes of the kind `what`. `#[stash(a = input)]` and
/// `#[stash(a = output)]` stash another handle to `x` as it is here, or to a part of it.
fn keep<'a>(layer: &'a Layer, plan: &'a Plan, what: Kept) -> impl Iterator<Item = TokenStream> {
    let stashes = layer.stashes().iter().filter(move |stash| stash.kept == what);
    stashes.filter_map(|stash| Some(store(plan, plan.route(&stash.name)?, site(layer), &kept(layer, stash))))
}

/// The code for what the layer stashes and lends at one of its ends.
pub fn keep_end<'a>(
    model: &'a Model,
    layer: &'a Layer,
    plan: &'a Plan,
    stage: usize,
    what: Kept,
) -> impl Iterator<Item = TokenStream> {
    keep(layer, plan, what).chain(lends::lend(model, layer, plan, stage, what, |lend| kept(layer, lend)))
}

/// `__rt::keep(&x)`, or `__rt::keep(&(*__rt::whole(&x).parts()).1)`. The part has its span in the
/// user's attribute, so that rustc reports there that it does not exist.
pub fn kept(layer: &Layer, stash: &Stash) -> TokenStream {
    let at = site(layer);
    let value = stash.part.iter().fold(quote_spanned!(at=> x), |whole, part| {
        let value = quote_spanned!(at.located_at(part.span())=> __rt::whole(&#whole).parts());
        quote_spanned!(at=> (*#value).#part)
    });
    quote_spanned!(at=> __rt::keep(&#value))
}

/// Receives the skips that `layer` pops right before the layer runs. A skip that is received
/// earlier takes memory on two devices for longer.
fn receive<'a>(model: &'a Model, layer: &'a Layer, plan: &'a Plan) -> impl Iterator<Item = TokenStream> {
    arriving(layer, plan).map(|route| {
        let at = site(&model.layers[route.stash]);
        let (skip, port) = (route_skip(route, at), port(route, at));
        quote_spanned!(at=> let #skip = io.receive(#port);)
    })
}

/// The skips that `layer` pops and that another stage stashes.
pub fn arriving<'a>(layer: &'a Layer, plan: &'a Plan) -> impl Iterator<Item = &'a Route> {
    layer.pops().iter().filter_map(|pop| plan.route(&pop.name)).filter(|route| route.crosses())
}

fn send_returned(layer: &Layer, plan: &Plan) -> impl Iterator<Item = TokenStream> {
    let crossing = returned(layer).filter_map(|name| plan.route(name)).filter(|route| route.crosses());
    crossing.map(|route| {
        let at = site(layer);
        let skip = route_skip(route, at);
        store(plan, route, at, &quote_spanned!(at=> #skip))
    })
}

/// Sends `value` to another stage, or stores it in a local variable if the same stage pops it.
fn store(plan: &Plan, route: &Route, at: Span, value: &TokenStream) -> TokenStream {
    match route.crosses() {
        true => {
            let (port, send) = (port(route, at), plan.send(route.from, route.to, at));
            quote_spanned!(at=> io.#send(#port, #value);)
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

/// The local variable that holds a skip.
pub fn skip(name: &Ident, at: Span) -> Ident {
    Ident::new(&format!("skip_{}", plain(name)), at)
}

fn route_skip(route: &Route, at: Span) -> Ident {
    skip(&route.ident, at)
}

/// The variable of the port through which a skip crosses stages.
pub fn port(route: &Route, at: Span) -> Ident {
    Ident::new(&format!("port_{}", route.name), at)
}

/// The variable that holds the layers of a step: the field's name, with a number if there are
/// several parts. To rustc it looks like a name of the user's, so it must not be the name of
/// another field.
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

/// The name, with the span of the layer's type.
pub fn on_type(layer: &Layer, mut name: Ident) -> Ident {
    name.set_span(name.span().located_at(layer.span()));
    name
}

/// The span of generated code that belongs to the layer.
pub fn site(layer: &Layer) -> Span {
    here().located_at(layer.span())
}
