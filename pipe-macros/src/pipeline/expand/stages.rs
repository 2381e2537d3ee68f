//! Generates the stages: a typed graph of functions, with the layers that they own.

use proc_macro2::{Ident, Literal, Span, TokenStream};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::LitStr;

use super::body::{self, binding, calls, on_type, port, site};
use super::plan_constant::split;
use super::types::owning;
use super::unpipelined::result;
use super::{Bodies, each, here, lends, lengths, plain, sums};
use crate::pipeline::declaration::{Kept, Recomputed};
use crate::pipeline::model::{Layer, Model};
use crate::pipeline::plan::{Hop, Pieces, Plan, Route, Share, Step, pieces};

/// `impl Pipeline`: splits the model into stages, and puts it together again.
pub fn pipeline_impl(model: &Model, plan: &Plan, bodies: Bodies) -> TokenStream {
    let ident = &model.ident;
    let (generics, arguments, _) = model.generics.split_for_impl();
    let bounds = owning(model);
    let plain = plain::type_name(model);
    let (graph, layers, plain_fields, disassemble, assemble) = match bodies {
        Bodies::Written => {
            let (graph, layers) = (quote_spanned!(here()=> graph), quote_spanned!(here()=> layers));
            let pieces = pieces(model, plan);
            (graph, layers, plain::value(model), disassemble(model, &pieces), assemble(model, &pieces.plan))
        }
        Bodies::Empty => (quote!(_), quote!(_), quote!(_), quote!(loop {}), quote!(loop {})),
    };
    quote_spanned! {here()=>
        impl #generics __rt::Pipeline for #ident #arguments #bounds {
            type Plain = #plain;
            fn disassemble(self, #graph: &mut __rt::Graph) -> __rt::Result<Self::Plain> {
                #disassemble
            }
            fn assemble(#layers: &mut __rt::Layers, #plain_fields: Self::Plain) -> Self {
                #assemble
            }
        }
    }
}

fn disassemble(model: &Model, Pieces { plan, stage_of }: &Pieces) -> TokenStream {
    let fields = model.field_names();
    let (lengths, lists) = (lengths::of_parameters(model), lengths::of_lists(model));
    let spread = (0..model.layers.len()).filter_map(|layer| spread(model, layer));
    let ports = Ports::new(model, plan);
    let stages = (0..plan.stages.len()).map(|piece| {
        let body = match recomputed_each(model, plan, piece) {
            Some(layer) => each_body(model, plan, &ports, piece, layer),
            None => stage_body(model, plan, &ports, piece),
        };
        let goes_on = piece > 0 && stage_of[piece - 1] == stage_of[piece];
        let goes_on = goes_on.then(|| quote_spanned!(here()=> graph.goes_on();));
        let recompute = recompute(model, plan, piece);
        quote!(#body #goes_on #recompute)
    });
    let input = flow(0, here());
    let plain = plain::value(model);
    quote_spanned! {here()=>
        #lengths
        let Self { #(#fields),* } = self;
        #lists
        #(#spread)*
        let #input = graph.input::<Self>();
        #(#stages)*
        ::core::result::Result::Ok(#plain)
    }
}

/// Generates `let [blocks_0, blocks_1] = __rt::spread(blocks, "blocks", Split::Evenly(2))?;`.
fn spread(model: &Model, index: usize) -> Option<TokenStream> {
    let layer = &model.layers[index];
    let split = split(&layer.split()?);
    let (field, child) = (on_type(layer, layer.ident.clone()), layer.child());
    let parts = part_bindings(model, index);
    Some(quote_spanned!(site(layer)=> let [#(#parts),*] = __rt::spread(#field, #child, #split)?;))
}

fn part_bindings(model: &Model, layer: usize) -> impl Iterator<Item = Ident> {
    let parts = model.layers[layer].part_count();
    (0..parts).map(move |part| binding(model, &Step { layer, part, parts }))
}

/// The ports, numbered in the order in which values are received: for each stage, its main input,
/// then the skips that it pops.
///
/// Each port is declared right before the stage that sends through it, whose body determines its
/// type. rustc revisits undetermined types again and again, so that its time would grow faster than
/// the length of the function.
struct Ports<'p> {
    model: &'p Model,
    plan: &'p Plan,
    /// The port of the main input of each stage, and of the model's output.
    flows: Vec<usize>,
    /// For each stage, the skips that it pops, and those that it stashes for another stage.
    arriving: Vec<Vec<(usize, &'p Route)>>,
    /// Skips that each stage stashes and another one pops, with their numbers.
    leaving: Vec<Vec<(usize, &'p Route)>>,
    /// The lent values that each stage receives, and those that it sends, with their numbers.
    lent: Vec<[Vec<(usize, &'p Hop)>; 2]>,
    /// The same of skips of each layer of an array.
    shares: Vec<[Vec<(usize, &'p Share)>; 2]>,
}

impl<'p> Ports<'p> {
    fn new(model: &'p Model, plan: &'p Plan) -> Self {
        let (mut flows, mut arriving, mut next) = (Vec::new(), Vec::new(), 0);
        let mut lent = vec![[Vec::new(), Vec::new()]; plan.stages.len()];
        let mut shares = vec![[Vec::new(), Vec::new()]; plan.stages.len()];
        for (number, stage) in plan.stages.iter().enumerate() {
            flows.push(next);
            next += 1;
            let mut skips = Vec::new();
            for step in &stage.steps {
                let layer = &model.layers[step.layer];
                for route in body::arriving(layer, plan).filter(|_| step.part == 0) {
                    skips.push((next, route));
                    next += 1;
                }
                for share in layer
                    .pops_of_each()
                    .flat_map(|name| plan.shares_to(step.layer, step.part, name))
                    .filter(|share| share.crosses())
                {
                    shares[number][0].push((next, share));
                    shares[share.from][1].push((next, share));
                    next += 1;
                }
                for hop in lends::arriving(model, step.layer, plan, number) {
                    lent[number][0].push((next, hop));
                    lent[hop.from][1].push((next, hop));
                    next += 1;
                }
            }
            arriving.push(skips);
        }
        flows.push(next);
        let mut leaving = vec![Vec::new(); plan.stages.len()];
        for &(number, route) in arriving.iter().flatten() {
            leaving[route.from].push((number, route));
        }
        Self { model, plan, flows, arriving, leaving, lent, shares }
    }

    /// Generates `let flow_1 = graph.port(1, 0, 1);` for each value that stage `stage` sends.
    fn declared(&self, stage: usize) -> TokenStream {
        let at = source_site(self.model, self.plan, stage + 1);
        let (name, number) = (flow(stage + 1, at), self.flows[stage + 1]);
        let main = match stage + 1 == self.plan.stages.len() {
            true => {
                let number = Literal::usize_unsuffixed(number);
                quote_spanned!(at=> let #name = graph.output::<Self>(#number);)
            }
            false => open_port(&name, number, (stage, stage + 1), at),
        };
        let skips = self.leaving[stage].iter().map(|&(number, route)| {
            let at = self.stash_site(route);
            open_port(&port(route, at), number, (route.from, route.to), at)
        });
        let lent = self.lent_from(stage).into_iter().map(|(name, hops)| {
            let end = |&&(number, hop): &&(usize, &Hop)| {
                let [number, to] = [number, hop.to].map(Literal::usize_unsuffixed);
                quote!((#number, #to))
            };
            let (ends, from) = (hops.iter().map(end), Literal::usize_unsuffixed(stage));
            quote_spanned!(name.span()=> let #name = graph.ports(#from, &[#(#ends),*]);)
        });
        let shares = self.shares[stage][1].iter().map(|&(number, share)| {
            let at = each::sender(self.model, share);
            open_port(&each::part(share, at), number, (share.from, share.to), at)
        });
        [main].into_iter().chain(skips).chain(lent).chain(shares).collect()
    }

    /// `flow_0, flow_1, port_level1,`: the ports of stage `stage`, for receiving and sending.
    fn used(&self, stage: usize) -> TokenStream {
        let [input, output] = [stage, stage + 1].map(|end| flow(end, source_site(self.model, self.plan, end)));
        let skips = self.arriving[stage].iter().chain(&self.leaving[stage]);
        let skips = skips.map(|(_, route)| port(route, self.stash_site(route)));
        let others = self.other_ports(stage);
        quote!(#input, #output, #(#skips,)* #(#others,)*)
    }

    /// What stage `stage` lends to others, or hands on, by the variables of its ports.
    fn lent_from(&self, stage: usize) -> Vec<(Ident, Vec<&(usize, &'p Hop)>)> {
        let mut lent: Vec<Vec<&(usize, &Hop)>> = Vec::new();
        for sent in &self.lent[stage][1] {
            match lent.iter_mut().find(|hops| hops[0].1.lent == sent.1.lent) {
                Some(hops) => hops.push(sent),
                None => lent.push(vec![sent]),
            }
        }
        let name = |hop: &Hop| lends::ports(hop, lends::sender(self.model, hop));
        lent.into_iter().map(|hops| (name(hops[0].1), hops)).collect()
    }

    /// `hop_0_memory, share_0_1_level`: the ports of lent values, and of skips of arrays, that
    /// stage `stage` receives or sends.
    fn other_ports(&self, stage: usize) -> impl Iterator<Item = Ident> {
        let received = self.lent[stage][0].iter();
        let received = received.map(|(_, hop)| lends::ports(hop, lends::sender(self.model, hop)));
        let lent = received.chain(self.lent_from(stage).into_iter().map(|(name, _)| name));
        let shares = self.shares[stage].iter().flatten();
        lent.chain(shares.map(|(_, share)| each::part(share, each::sender(self.model, share))))
    }

    /// rustc reports there that the value cannot cross.
    fn stash_site(&self, route: &Route) -> Span {
        site(&self.model.layers[route.stash])
    }
}

fn open_port(name: &Ident, number: usize, (from, to): (usize, usize), at: Span) -> TokenStream {
    let [number, from, to] = [number, from, to].map(Literal::usize_unsuffixed);
    quote_spanned!(at=> let #name = graph.port(#number, #from, #to);)
}

/// The place where the main input of stage `stage`, or the output of the last one, is made. If the
/// value cannot cross, rustc reports it there. Both ends of the port have this span, so it is
/// reported once.
fn source_site(model: &Model, plan: &Plan, stage: usize) -> Span {
    let before = stage.checked_sub(1).and_then(|before| plan.stages.get(before));
    let last_layer = before.and_then(|stage| stage.steps.last());
    last_layer.map_or_else(here, |step| site(&model.layers[step.layer]))
}

/// Generates a stage:
/// `graph.stage((movable(encode1), ..), (flow_0, ..), |(encode1, ..), (flow_0, ..), io, cx| ..);`.
///
/// The body borrows nothing, so it is a plain function, and rustc does not have to analyze
/// captures.
fn stage_body(model: &Model, plan: &Plan, ports: &Ports<'_>, stage: usize) -> TokenStream {
    let layers = stage_bindings(model, plan, stage);
    let movable = plan.stages[stage].steps.iter().map(|step| movable(model, step));
    let (declared, used) = (ports.declared(stage), ports.used(stage));
    let calls = calls(model, plan, stage);
    let receive = receive(model, plan, stage);
    let sums = sums::begin(model, plan, stage);
    let send = send(model, plan, stage);
    quote_spanned! {opening_site(model, plan, stage)=>
        #declared
        graph.stage((#(#movable,)*), (#used), |(#layers), (#used), io, cx| {
            #receive
            #sums
            #calls
            #send
        });
    }
}

/// The step of a piece that is repeated layers which are recomputed one by one.
fn recomputed_each<'m>(model: &'m Model, plan: &Plan, piece: usize) -> Option<&'m Layer> {
    let [step] = plan.stages[piece].steps.as_slice() else { return None };
    Some(&model.layers[step.layer]).filter(|layer| layer.is_repeated() && layer.marks.recompute.is_some())
}

/// `graph.recompute(|number| number < 3);` after a piece of which the backward recomputes layers.
fn recompute(model: &Model, plan: &Plan, piece: usize) -> Option<TokenStream> {
    let step = plan.stages[piece].steps.first()?;
    let which = match &model.layers[step.layer].marks.recompute.as_ref()?.value {
        Recomputed::All => quote!(|_| true),
        Recomputed::First(count) => {
            let count = Literal::usize_unsuffixed(count.base10_parse().ok()?);
            quote!(|number| number < #count)
        }
        Recomputed::Numbers(numbers) => quote!(|number| ::core::matches!(number, #(#numbers)|*)),
    };
    Some(quote_spanned!(here()=> graph.recompute(#which);))
}

/// Generates repeated layers of which each is recomputed alone:
/// `graph.stage_of_each(movable_part(blocks_0), (flow_0, flow_1), (..), around, each);`.
/// Between them flows `x`, or `(x, sums, each_level)`.
fn each_body(model: &Model, plan: &Plan, ports: &Ports<'_>, piece: usize, layer: &Layer) -> TokenStream {
    let at = site(layer);
    let step = &plan.stages[piece].steps[0];
    let (declared, movable) = (ports.declared(piece), movable(model, step));
    let [input, output] = [piece, piece + 1].map(|end| flow(end, source_site(model, plan, end)));
    let kept = ports.leaving[piece].iter().map(|(_, route)| port(route, ports.stash_site(route)));
    let kept: Vec<Ident> = kept.chain(ports.other_ports(piece)).collect();
    let keep_end = |what| body::keep_end(model, layer, plan, piece, what).collect::<TokenStream>();
    let before = (step.part == 0).then(|| keep_end(Kept::Input));
    let after = (step.part + 1 == step.parts).then(|| keep_end(Kept::Output));
    let one = each::run_one(model, layer, plan, piece);
    let (joined, given) = (each::join(model, plan, step), each::give(model, plan, step, &quote_spanned!(at=> layers)));
    let (comes, goes) = (sums::flow(model, plan, piece, at), sums::flow(model, plan, piece + 1, at));
    let flows = each::state(layer, sums::add(model, &plan.stages[..=piece]));
    let (begin, none) = (sums::begin(model, plan, piece), each::no_skips_yet(layer));
    let is_last = piece + 1 == plan.stages.len();
    let end = if is_last { result(model, at) } else { goes };
    let around = quote_spanned!(at=> (|#comes| { #begin #none #flows }, |#flows| #end));
    quote_spanned! {at=>
        #declared
        graph.stage_of_each(#movable, (#input, #output), #around, (#(#kept,)*), |#flows, element, (#(#kept,)*), io, cx| {
            match element {
                __rt::Element::Before => {
                    #before
                    #joined
                    #flows
                }
                __rt::Element::One(layers, number) => {
                    #one
                    #flows
                }
                __rt::Element::After(layers) => {
                    #after
                    #given
                    #flows
                }
            }
        });
    }
}

/// `__rt::movable(encode1)`: rustc reports at the layer that it cannot move to the stage's thread.
fn movable(model: &Model, step: &Step) -> TokenStream {
    let layer = &model.layers[step.layer];
    let binding = on_type(layer, binding(model, step));
    match layer.is_repeated() {
        true => quote_spanned!(site(layer)=> __rt::movable_part(#binding)),
        false => quote_spanned!(site(layer)=> __rt::movable(#binding)),
    }
}

/// Receives the main input of stage `stage`.
fn receive(model: &Model, plan: &Plan, stage: usize) -> TokenStream {
    let at = source_site(model, plan, stage);
    let port = flow(stage, at);
    let flow = sums::flow(model, plan, stage, at);
    match stage {
        0 => quote_spanned!(at=> let x = io.receive_input::<Self>(#port);),
        _ => quote_spanned!(at=> let #flow = io.receive(#port);),
    }
}

/// Sends the main output of stage `stage`.
fn send(model: &Model, plan: &Plan, stage: usize) -> TokenStream {
    let at = source_site(model, plan, stage + 1);
    let port = flow(stage + 1, at);
    if stage + 1 < plan.stages.len() {
        let (send, flow) = (plan.send(stage, stage + 1, at), sums::flow(model, plan, stage + 1, at));
        return quote_spanned!(at=> io.#send(#port, #flow););
    }
    let result = result(model, at);
    quote_spanned!(at=> io.send_output::<Self>(#port, #result);)
}

/// The place in the struct where the stage is opened. Errors about its layers as a whole are
/// reported there.
fn opening_site(model: &Model, plan: &Plan, stage: usize) -> Span {
    let Some(step) = plan.stages[stage].steps.first() else { return here() };
    let layer = &model.layers[step.layer];
    let forced = layer.marks.stage.as_ref().map(|mark| mark.word.span());
    let asked = layer.device_of_part(step.part).map(LitStr::span);
    here().located_at(asked.or(forced).unwrap_or_else(|| layer.span()))
}

/// Generates `encode1, encode2, blocks_0,`, the locals of the stage's layers.
fn stage_bindings(model: &Model, plan: &Plan, stage: usize) -> TokenStream {
    let bindings = plan.stages[stage].steps.iter().map(|step| binding(model, step));
    quote!(#(#bindings,)*)
}

/// The variable of the port of the main input of stage `stage`.
fn flow(stage: usize, at: Span) -> Ident {
    format_ident!("flow_{}", stage, span = at)
}

fn assemble(model: &Model, plan: &Plan) -> TokenStream {
    let take = (0..plan.stages.len()).map(|stage| {
        let layers = stage_bindings(model, plan, stage);
        let types = plan.stages[stage].steps.iter().map(|step| owned_type(&model.layers[step.layer]));
        quote_spanned!(here()=> let (#layers) = layers.take::<(#(#types,)*)>();)
    });
    let fields = (0..model.layers.len()).map(|layer| gathered(model, layer));
    let plain_fields = model.plain_fields.iter().map(|field| &field.ident);
    quote_spanned! {here()=>
        #(#take)*
        Self { #(#fields,)* #(#plain_fields),* }
    }
}

/// The type of the part of a field that a stage owns.
fn owned_type(layer: &Layer) -> TokenStream {
    match layer.shape.layer() {
        Some(repeated) if layer.is_repeated() => quote_spanned!(site(layer)=> __rt::Repeated<#repeated>),
        _ => layer.ty.to_token_stream(),
    }
}

/// Generates `encode1`, or `blocks: __rt::gather_parts([blocks_0, blocks_1])`.
fn gathered(model: &Model, index: usize) -> TokenStream {
    let layer = &model.layers[index];
    let field = &layer.ident;
    match layer.is_repeated() {
        true => {
            let parts = part_bindings(model, index);
            quote_spanned!(site(layer)=> #field: __rt::gather_parts([#(#parts),*]))
        }
        false => quote!(#field),
    }
}
