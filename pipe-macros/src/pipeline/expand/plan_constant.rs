//! Generates `PLAN`: the stages, layers and skips as a constant.

use std::collections::HashSet;

use proc_macro2::{Literal, TokenStream};
use quote::{ToTokens, quote, quote_spanned};

use super::here;
use crate::pipeline::declaration::{Outer, Recomputed, Shape};
use crate::pipeline::model::{Layer, Lent, Model};
use crate::pipeline::plan::{Plan, Split, Stage, Step, lending_stage};
use crate::support::names::plain;

/// Generates the value of `PLAN`.
pub fn plan_constant(model: &Model, plan: &Plan) -> TokenStream {
    let name = plain(&model.ident);
    let stages = plan.stages.iter().map(|stage| stage_plan(model, stage));
    let skips =
        plan.routes.iter().map(|route| skip_plan(model, &route.name, (route.stash, route.from), (route.pop, route.to)));
    // Several parts of an array may be in one stage.
    let mut seen = HashSet::new();
    let shares = plan.shares.iter().filter(|share| seen.insert((&share.name, share.from, share.to)));
    let shares =
        shares.map(|share| skip_plan(model, &share.name, (share.stash.0, share.from), (share.pop.0, share.to)));
    let skips = skips.chain(shares);
    let processes = plan.stages.iter().filter_map(|stage| stage.process).map(Literal::usize_unsuffixed);
    let costs = model.assigned.iter().flat_map(|assigned| &assigned.costs).copied().map(Literal::u64_unsuffixed);
    // Most models have none of these. A base that gives nothing would be a warning.
    let lent = model.lent.iter().filter_map(|lent| lent_plan(model, plan, lent));
    let recomputed = model.layers.iter().filter_map(recomputed_plan);
    let (processes, costs) = (list(quote!(processes), processes), list(quote!(costs), costs));
    let (lent, recomputed) = (list(quote!(lent), lent), list(quote!(recomputed), recomputed));
    let sums = list(quote!(sums), model.settings.sums().iter().map(|sum| sum_plan(model, sum)));
    let is_whole = [&lent, &sums, &recomputed, &processes, &costs].into_iter().all(Option::is_some);
    let base = (!is_whole).then(|| quote_spanned!(here()=> ..__rt::Plan::EMPTY));
    quote_spanned! {here()=>
        __rt::Plan { name: #name, stages: &[#(#stages),*], skips: &[#(#skips),*], #lent #sums #recomputed #processes #costs #base }
    }
}

/// The field `name: &[items],`, unless there are no items.
fn list(name: TokenStream, items: impl Iterator<Item = impl ToTokens>) -> Option<TokenStream> {
    let items: Vec<_> = items.collect();
    (!items.is_empty()).then(|| quote_spanned!(here()=> #name: &[#(#items),*],))
}

/// `Split::Evenly(parts)`, or `Split::Counts` with the number of layers of each part.
pub fn split(split: &Split) -> TokenStream {
    match split {
        Split::Evenly(parts) => {
            let parts = Literal::usize_unsuffixed(*parts);
            quote_spanned!(here()=> __rt::Split::Evenly(#parts))
        }
        Split::Counts(counts) => {
            let counts = counts.iter().map(|count| Literal::usize_unsuffixed(*count));
            quote_spanned!(here()=> __rt::Split::Counts(&[#(#counts),*]))
        }
    }
}

fn stage_plan(model: &Model, stage: &Stage) -> TokenStream {
    let device = &stage.device;
    let layers = stage.steps.iter().map(|step| &model.layers[step.layer]);
    let layers = match layers.clone().any(Layer::is_repeated) {
        true => {
            let layers = stage.steps.iter().map(|step| layer_plan(&model.layers[step.layer], step));
            quote_spanned!(here()=> [#(#layers),*])
        }
        // One call rather than one per layer, because rustc spends most of its time here on these
        // calls.
        false => {
            let children = layers.map(Layer::child);
            quote_spanned!(here()=> __rt::LayerPlan::layers([#(#children),*]))
        }
    };
    quote_spanned!(here()=> __rt::StagePlan { device: #device, layers: &#layers })
}

fn layer_plan(layer: &Layer, step: &Step) -> TokenStream {
    let child = layer.child();
    let Some(split_in) = layer.split() else {
        return quote_spanned!(here()=> __rt::LayerPlan::layer(#child));
    };
    let split = split(&split_in);
    let part = Literal::usize_unsuffixed(step.part);
    let len = match &layer.shape {
        Shape::Array { len, .. } => quote!(::core::option::Option::Some(#len)),
        _ => quote!(::core::option::Option::None),
    };
    quote_spanned!(here()=> __rt::LayerPlan::repeated(#child, #part, #split, #len))
}

/// Takes the layers at both ends, each with its stage.
fn skip_plan(model: &Model, name: &str, (stash, from): (usize, usize), (pop, to): (usize, usize)) -> TokenStream {
    let (stash, pop) = (model.layers[stash].child(), model.layers[pop].child());
    let [from, to] = [from, to].map(Literal::usize_unsuffixed);
    quote_spanned! {here()=>
        __rt::SkipPlan { name: #name, stash: #stash, from: #from, pop: #pop, to: #to }
    }
}

fn sum_plan(model: &Model, sum: &Outer) -> TokenStream {
    let name = plain(&sum.name);
    let adds = |layer: &&Layer| layer.sums().iter().any(|other| plain(other) == name);
    let layers = model.layers.iter().filter(adds).map(Layer::child);
    quote_spanned!(here()=> __rt::SumPlan { name: #name, layers: &[#(#layers),*] })
}

fn recomputed_plan(layer: &Layer) -> Option<TokenStream> {
    let child = layer.child();
    let which = match &layer.marks.recompute.as_ref()?.value {
        Recomputed::All => quote_spanned!(here()=> All),
        Recomputed::First(count) => {
            let count = Literal::usize_unsuffixed(count.base10_parse().ok()?);
            quote_spanned!(here()=> First(#count))
        }
        Recomputed::Numbers(numbers) => {
            let numbers = numbers.iter().copied().map(Literal::usize_unsuffixed);
            quote_spanned!(here()=> Of(&[#(#numbers),*]))
        }
    };
    Some(quote_spanned!(here()=> __rt::RecomputedPlan { layer: #child, which: __rt::Recomputed::#which }))
}

fn lent_plan(model: &Model, plan: &Plan, lent: &Lent) -> Option<TokenStream> {
    let lend = lent.lends.first()?;
    let (name, lender) = (&lent.name, model.layers[lend.layer].child());
    let from = Literal::usize_unsuffixed(lending_stage(lend, &plan.stages)?);
    // Ranges, because rustc takes long for a list of a thousand names.
    let layers = plan.stages.iter().flat_map(|stage| &stage.steps).map(|step| step.layer).enumerate();
    let reading: HashSet<usize> = lent.reads.iter().map(|read| read.layer).collect();
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for (number, _) in layers.filter(|(_, layer)| reading.contains(layer)) {
        match ranges.last_mut().filter(|(_, end)| *end == number) {
            Some((_, end)) => *end += 1,
            None => ranges.push((number, number + 1)),
        }
    }
    let readers = ranges.into_iter().map(|(first, end)| {
        let [first, end] = [first, end].map(Literal::usize_unsuffixed);
        quote_spanned!(here()=> (#first, #end))
    });
    Some(quote_spanned! {here()=>
        __rt::LentPlan { name: #name, lender: #lender, from: #from, readers: &[#(#readers),*] }
    })
}
