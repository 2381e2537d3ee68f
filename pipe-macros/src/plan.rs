//! Which layer runs in which stage, and which way each skip goes.

use crate::model::{Layer, Model, Skip};
use crate::parse::{Kept, Part};
use proc_macro2::Ident;

/// Stages in the order in which data flows; routes in the order of their stashes.
pub struct Plan {
    pub stages: Vec<Stage>,
    pub routes: Vec<Route>,
}

pub struct Stage {
    pub device: String,
    pub steps: Vec<Step>,
}

/// A layer of a stage, or part `part` of `parts` of a field that repeats layers.
#[derive(Clone, Copy)]
pub struct Step {
    pub layer: usize,
    pub part: usize,
    pub parts: usize,
}

/// A skip from the layer that stashes to the one that pops.
pub struct Route {
    pub name: String,
    /// The name at the stash, to point at.
    pub ident: Ident,
    pub stash: usize,
    pub from: usize,
    pub pop: usize,
    pub to: usize,
}

/// How a field's layers are split over its parts.
pub enum Split {
    Evenly(usize),
    Counts(Vec<usize>),
}

/// The plan that the annotations make.
pub fn plan(model: &Model) -> Plan {
    let mut stages: Vec<Stage> = Vec::new();
    for (index, layer) in model.layers.iter().enumerate() {
        let parts = layer.part_count();
        for part in 0..parts {
            let asked = layer.device_of_part(part);
            let forced = part == 0 && layer.marks.stage.is_some();
            let running = stages.last().map(|stage| stage.device.clone());
            if let Some(device) = opens(running, asked, forced) {
                stages.push(Stage { device, steps: Vec::new() });
            }
            if let Some(stage) = stages.last_mut() {
                stage.steps.push(Step { layer: index, part, parts });
            }
        }
    }
    Plan { routes: routes(model, &stages), stages }
}

/// The plan of an in-place run: everything in one stage, repeated layers in one piece.
pub fn in_place(model: &Model) -> Plan {
    let steps = (0..model.layers.len()).map(|layer| Step { layer, part: 0, parts: 1 }).collect();
    let stages = vec![Stage { device: String::new(), steps }];
    Plan { routes: routes(model, &stages), stages }
}

/// The device of the stage that starts here, if one does. The same accelerator goes on in the
/// running stage: one stream of work has nothing to gain from being cut. Two stages on `cpu` run
/// at the same time on different cores.
fn opens(running: Option<String>, asked: Option<String>, forced: bool) -> Option<String> {
    match (running, asked) {
        (None, asked) => Some(asked.unwrap_or_default()),
        (Some(running), None) => forced.then_some(running),
        (Some(running), Some(asked)) => (forced || asked == "cpu" || asked != running).then_some(asked),
    }
}

fn routes(model: &Model, stages: &[Stage]) -> Vec<Route> {
    let mut routes: Vec<Route> = model.skips.iter().filter_map(|skip| route(skip, stages)).collect();
    routes.sort_by_key(|route| route.stash);
    routes
}

fn route(skip: &Skip, stages: &[Stage]) -> Option<Route> {
    let (stash, pop) = (skip.stashes.first()?, skip.pops.first()?);
    let ends = |layer: usize| stages.iter().map(move |stage| stage.steps.iter().any(|step| step.layer == layer));
    let from = match stash.what {
        Kept::Input => ends(stash.layer).position(|here| here)?,
        Kept::Output | Kept::Returned => ends(stash.layer).rposition(|here| here)?,
    };
    let to = ends(pop.layer).position(|here| here)?;
    Some(Route { name: skip.name.clone(), ident: stash.name.clone(), stash: stash.layer, from, pop: pop.layer, to })
}

impl Layer {
    /// In how many pieces the field is run.
    pub fn part_count(&self) -> usize {
        self.parts().len().max(1)
    }

    /// How repeated layers are split; `None` for a single layer.
    pub fn split(&self) -> Option<Split> {
        let counts: Option<Vec<usize>> = self.parts().iter().map(Part::count).collect();
        match counts {
            _ if !self.is_repeated() => None,
            Some(counts) if !counts.is_empty() => Some(Split::Counts(counts)),
            _ => Some(Split::Evenly(self.part_count())),
        }
    }

    fn device_of_part(&self, part: usize) -> Option<String> {
        let of_part = self.parts().get(part).map(|Part { device, .. }| device);
        of_part.or(self.first_device()).map(syn::LitStr::value)
    }
}

impl Plan {
    /// The way of the skip that is written `name`.
    pub fn route(&self, name: &Ident) -> Option<&Route> {
        let name = crate::names::plain(name);
        self.routes.iter().find(|route| route.name == name)
    }

    /// The stage in which the field runs, or its first part does.
    pub fn stage_of(&self, layer: usize) -> usize {
        let holds = |stage: &Stage| stage.steps.iter().any(|step| step.layer == layer);
        self.stages.iter().position(holds).unwrap_or(0)
    }
}

impl Route {
    /// Whether the value leaves the stage that made it.
    pub fn crosses(&self) -> bool {
        self.from != self.to
    }
}
