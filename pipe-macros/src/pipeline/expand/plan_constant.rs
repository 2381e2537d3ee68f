//! Generates `PLAN`: the stages, layers and skips as a constant.

use proc_macro2::{Literal, TokenStream};
use quote::{quote, quote_spanned};

use super::here;
use crate::pipeline::declaration::Shape;
use crate::pipeline::model::{Layer, Model};
use crate::pipeline::plan::{Plan, Route, Split, Stage, Step};
use crate::support::names::plain;

/// Generates the value of `PLAN`.
pub fn plan_constant(model: &Model, plan: &Plan) -> TokenStream {
    let name = plain(&model.ident);
    let stages = plan.stages.iter().map(|stage| stage_plan(model, stage));
    let skips = plan.routes.iter().map(|route| skip_plan(model, route));
    let processes = plan.stages.iter().filter_map(|stage| stage.process).map(Literal::usize_unsuffixed);
    let costs = model.assigned.iter().flat_map(|assigned| &assigned.costs).copied().map(Literal::u64_unsuffixed);
    // Most models have neither. A base that gives nothing would be a warning.
    let (processes, costs) = (list(quote!(processes), processes), list(quote!(costs), costs));
    let base = (processes.is_none() || costs.is_none()).then(|| quote_spanned!(here()=> ..__rt::Plan::EMPTY));
    quote_spanned! {here()=>
        __rt::Plan { name: #name, stages: &[#(#stages),*], skips: &[#(#skips),*], #processes #costs #base }
    }
}

/// The field `name: &[items],`, unless there are no items.
fn list(name: TokenStream, items: impl Iterator<Item = Literal>) -> Option<TokenStream> {
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

fn skip_plan(model: &Model, route: &Route) -> TokenStream {
    let name = &route.name;
    let (stash, pop) = (model.layers[route.stash].child(), model.layers[route.pop].child());
    let from = Literal::usize_unsuffixed(route.from);
    let to = Literal::usize_unsuffixed(route.to);
    quote_spanned! {here()=>
        __rt::SkipPlan { name: #name, stash: #stash, from: #from, pop: #pop, to: #to }
    }
}
