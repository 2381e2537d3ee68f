//! Finds the ways of values that leave their layer: skips, lent values, and the skips of arrays.

use std::collections::HashMap;

use proc_macro2::Ident;

use super::{Split, Stage, Step};
use crate::pipeline::declaration::Kept;
use crate::pipeline::model::{End, Model, Skip};

/// A skip from the layer that stashes to the one that pops.
pub struct Route {
    pub name: String,
    /// The name at the stash, for the place of an error.
    pub ident: Ident,
    /// The name at the pop.
    pub pop_ident: Ident,
    pub stash: usize,
    pub from: usize,
    pub pop: usize,
    pub to: usize,
}

/// The way of a lent value into a stage whose layers read it: from the stage that lends it, or from
/// an earlier piece of the same stage.
pub struct Hop {
    /// The index in [`Model::lent`], and the name.
    pub lent: usize,
    pub name: String,
    pub lender: usize,
    pub from: usize,
    pub to: usize,
    /// The first layer there that reads it, and its name as it is written there.
    pub reader: usize,
    pub ident: Ident,
}

/// The skips that go from a part of one array to a part of another: the last layer's skip to the
/// first layer.
pub struct Share {
    pub name: String,
    /// The layer and the part that stash.
    pub stash: (usize, usize),
    pub from: usize,
    /// The layer and the part that pop.
    pub pop: (usize, usize),
    pub to: usize,
}

impl Share {
    /// Whether the skips leave the stage that stashes them.
    pub fn crosses(&self) -> bool {
        self.from != self.to
    }
}

impl Route {
    /// Whether the value leaves the stage that stashes it.
    pub fn crosses(&self) -> bool {
        self.from != self.to
    }
}

pub fn routes(model: &Model, stages: &[Stage]) -> Vec<Route> {
    let spans = spans(model, stages);
    let mut routes: Vec<Route> = model.skips.iter().filter_map(|skip| route(skip, &spans)).collect();
    routes.sort_by_key(|route| route.stash);
    routes
}

/// The first and the last stage of each layer.
fn spans(model: &Model, stages: &[Stage]) -> Vec<(usize, usize)> {
    let mut spans = vec![(usize::MAX, 0); model.layers.len()];
    for (index, stage) in stages.iter().enumerate() {
        for step in &stage.steps {
            let (first, last) = &mut spans[step.layer];
            (*first, *last) = (index.min(*first), index);
        }
    }
    spans
}

fn route(skip: &Skip, spans: &[(usize, usize)]) -> Option<Route> {
    let (stash, pop) = (skip.stashes.first()?, skip.pops.first()?);
    if stash.each || pop.each {
        return None;
    }
    Some(Route {
        name: skip.name.clone(),
        ident: stash.name.clone(),
        pop_ident: pop.name.clone(),
        stash: stash.layer,
        from: stage_of_end(stash.what, spans[stash.layer]),
        pop: pop.layer,
        to: spans[pop.layer].0,
    })
}

/// The ways of a skip of each layer of an array. Parts that certainly share none are left out.
pub fn shares(model: &Model, skip: &Skip, stages: &[Stage]) -> Vec<Share> {
    let (Some(stash), Some(pop)) = (skip.stashes.first(), skip.pops.first()) else { return Vec::new() };
    if !stash.each || !pop.each {
        return Vec::new();
    }
    let parts = |layer: usize| {
        let numbered = stages.iter().enumerate();
        let steps = numbered.flat_map(|(stage, plan)| plan.steps.iter().map(move |step| (stage, step)));
        steps.filter(|(_, step)| step.layer == layer).map(|(stage, step)| (stage, *step)).collect::<Vec<_>>()
    };
    let mut shares = Vec::new();
    for (from, stashing) in parts(stash.layer) {
        for (to, popping) in parts(pop.layer) {
            if may_share(model, &stashing, &popping) {
                shares.push(Share {
                    name: skip.name.clone(),
                    stash: (stash.layer, stashing.part),
                    from,
                    pop: (pop.layer, popping.part),
                    to,
                });
            }
        }
    }
    shares
}

/// Whether a skip goes from one part to the other, as far as the lengths of the arrays are known.
fn may_share(model: &Model, stash: &Step, pop: &Step) -> bool {
    let known = |step: &Step| {
        let layer = &model.layers[step.layer];
        let (len, _) = layer.literal_len()?;
        let split = if step.parts == 1 { Split::Evenly(1) } else { layer.split()? };
        Some((split.range(step.part, len)?, len))
    };
    let (Some((stashed, len)), Some((popped, _))) = (known(stash), known(pop)) else { return true };
    let wanted = len.saturating_sub(popped.end)..len.saturating_sub(popped.start);
    stashed.start.max(wanted.start) < stashed.end.min(wanted.end)
}

/// The ways of one lent value. Each stage gets it once, from where it is lent; a later piece of the
/// stage gets it from an earlier one.
pub fn hops(model: &Model, index: usize, stages: &[Stage], stage_of: &[usize]) -> Vec<Hop> {
    let lent = &model.lent[index];
    let Some(lend) = lent.lends.first() else { return Vec::new() };
    let Some(lender) = lending_stage(lend, stages) else { return Vec::new() };
    let mut holder: HashMap<usize, usize> = HashMap::from([(stage_of[lender], lender)]);
    let mut hops = Vec::new();
    for (to, stage) in stages.iter().enumerate().skip(lender + 1) {
        let read = |layer: usize| model.layers[layer].reads.iter().find(|read| read.lent == index);
        let mut reads = stage.steps.iter().filter_map(|step| Some((step.layer, read(step.layer)?)));
        let Some((reader, read)) = reads.next() else { continue };
        let from = holder.insert(stage_of[to], to).unwrap_or(lender);
        hops.push(Hop {
            lent: index,
            name: lent.name.clone(),
            lender: lend.layer,
            from,
            to,
            reader,
            ident: read.name.clone(),
        });
    }
    hops
}

/// The stage that makes what is lent.
pub fn lending_stage(lend: &End<Kept>, stages: &[Stage]) -> Option<usize> {
    let runs = |stage: &Stage| stage.steps.iter().any(|step| step.layer == lend.layer);
    let span = (stages.iter().position(runs)?, stages.iter().rposition(runs)?);
    Some(stage_of_end(lend.what, span))
}

/// The stage in which a layer, with its first and last stage, has the value that is kept.
fn stage_of_end(what: Kept, (first, last): (usize, usize)) -> usize {
    match what {
        Kept::Input | Kept::Tied => first,
        Kept::Output | Kept::Returned => last,
    }
}
