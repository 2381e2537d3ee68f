//! Assigns layers to stages, and finds the ways of values between them.

mod routes;

pub use routes::{Hop, Route, Share, lending_stage};

use std::collections::HashMap;
use std::ops::Range;

use proc_macro2::{Ident, Span};
use syn::LitStr;

use crate::pipeline::declaration::{Assigned, Part};
use crate::pipeline::model::{Layer, Model};
use crate::support::names::plain;
use routes::{hops, routes, shares};

/// Stages in the order of the data flow, and routes in the order of their stashes.
pub struct Plan {
    pub stages: Vec<Stage>,
    pub routes: Vec<Route>,
    /// The ways of lent values from stage to stage.
    pub hops: Vec<Hop>,
    /// The ways of the skips of arrays: one for each part that stashes and each part that pops.
    pub shares: Vec<Share>,
    /// The index of the route with a name.
    by_name: HashMap<String, usize>,
}

#[derive(Clone)]
pub struct Stage {
    pub device: String,
    /// The annotated process, if there is one.
    pub process: Option<usize>,
    pub steps: Vec<Step>,
}

/// A layer of a stage. For a field of repeated layers, it is part `part` of `parts`.
#[derive(Clone, Copy)]
pub struct Step {
    pub layer: usize,
    pub part: usize,
    pub parts: usize,
}

/// How the layers of a field are split into parts.
#[derive(Debug, PartialEq, Eq)]
pub enum Split {
    Evenly(usize),
    Counts(Vec<usize>),
}

/// Makes the plan, from the annotations or from a balance file.
pub fn plan(model: &Model) -> Plan {
    let stages = stages(model);
    let stage_of: Vec<usize> = (0..stages.len()).collect();
    with_routes(model, stages, &stage_of)
}

/// The stages in pieces, as generated code declares them: a layer that is recomputed is a piece of
/// its own.
pub struct Pieces {
    /// The pieces, and the skips between them.
    pub plan: Plan,
    /// The stage of each piece.
    pub stage_of: Vec<usize>,
}

/// Divides the stages into pieces.
pub fn pieces(model: &Model, plan: &Plan) -> Pieces {
    let (mut pieces, mut stage_of): (Vec<Stage>, Vec<usize>) = (Vec::new(), Vec::new());
    let is_recomputed = |step: &Step| model.layers[step.layer].marks.recompute.is_some();
    for (number, stage) in plan.stages.iter().enumerate() {
        for steps in stage.steps.chunk_by(|a, b| !is_recomputed(a) && !is_recomputed(b)) {
            pieces.push(Stage { steps: steps.to_vec(), ..stage.clone() });
            stage_of.push(number);
        }
    }
    Pieces { plan: with_routes(model, pieces, &stage_of), stage_of }
}

/// Makes only the stages of the plan.
pub fn stages(model: &Model) -> Vec<Stage> {
    match &model.assigned {
        Some(assigned) => assigned_stages(model, assigned),
        None => annotated_stages(model),
    }
}

fn assigned_stages(model: &Model, assigned: &Assigned) -> Vec<Stage> {
    let stage = |(number, device): (usize, &String)| Stage {
        device: device.clone(),
        process: assigned.processes.get(number).copied(),
        steps: Vec::new(),
    };
    let mut stages: Vec<Stage> = assigned.devices.iter().enumerate().map(stage).collect();
    let mut running = 0;
    for (index, layer) in model.layers.iter().enumerate() {
        let parts = layer.part_count();
        for part in 0..parts {
            // Layers that the file does not list run in the stage where they stand.
            running = assigned.stages.get(index).and_then(|stages| stages.get(part)).copied().unwrap_or(running);
            if let Some(stage) = stages.get_mut(running) {
                stage.steps.push(Step { layer: index, part, parts });
            }
        }
    }
    stages
}

fn annotated_stages(model: &Model) -> Vec<Stage> {
    let mut stages: Vec<Stage> = Vec::new();
    for (index, layer) in model.layers.iter().enumerate() {
        let parts = layer.part_count();
        for part in 0..parts {
            let asked = layer.device_of_part(part).map(|device| (device.value(), layer.process_of_part(part)));
            let forced = part == 0 && layer.marks.stage.is_some();
            let running = stages.last().map(|stage| (stage.device.clone(), stage.process));
            if let Some((device, process)) = opens(running, asked, forced) {
                stages.push(Stage { device, process, steps: Vec::new() });
            }
            if let Some(stage) = stages.last_mut() {
                stage.steps.push(Step { layer: index, part, parts });
            }
        }
    }
    stages
}

/// Makes the plan of an unpipelined run: one stage, with repeated layers in one part.
pub fn unpipelined(model: &Model) -> Plan {
    let steps = (0..model.layers.len()).map(|layer| Step { layer, part: 0, parts: 1 }).collect();
    let stages = vec![Stage { device: String::new(), process: None, steps }];
    with_routes(model, stages, &[0])
}

fn with_routes(model: &Model, stages: Vec<Stage>, stage_of: &[usize]) -> Plan {
    let routes = routes(model, &stages);
    let hops = (0..model.lent.len()).flat_map(|lent| hops(model, lent, &stages, stage_of)).collect();
    let shares = model.skips.iter().flat_map(|skip| shares(model, skip, &stages)).collect();
    let by_name = routes.iter().enumerate().map(|(index, route)| (route.name.clone(), index)).collect();
    Plan { stages, routes, hops, shares, by_name }
}

/// A device, and its process if there is one.
type Site = (String, Option<usize>);

/// The device of the stage that starts here, if one does. The same accelerator again continues the
/// current stage, because cutting one stream of work gains nothing. Two stages on `cpu` run at the
/// same time on different cores.
fn opens(running: Option<Site>, asked: Option<Site>, forced: bool) -> Option<Site> {
    match (running, asked) {
        (None, asked) => Some(asked.unwrap_or_default()),
        (Some(running), None) => forced.then_some(running),
        (Some(running), Some(asked)) => (forced || asked.0 == "cpu" || asked != running).then_some(asked),
    }
}

impl Split {
    /// The layers of a part, of so many; `None` if it does not exist.
    fn range(&self, part: usize, len: usize) -> Option<Range<usize>> {
        match self {
            Split::Evenly(parts) => {
                let start = |part: usize| part * (len / parts) + part.min(len % parts);
                (part < *parts).then(|| start(part)..start(part + 1))
            }
            Split::Counts(counts) => {
                let start = counts.get(..part)?.iter().sum::<usize>();
                Some(start..start + counts.get(part)?)
            }
        }
    }
}

impl Layer {
    /// The number of parts of the field.
    pub fn part_count(&self) -> usize {
        self.parts().len().max(1)
    }

    /// Split of repeated layers, or `None` for a single layer.
    pub fn split(&self) -> Option<Split> {
        let counts: Option<Vec<usize>> = self.parts().iter().map(Part::count).collect();
        match counts {
            _ if !self.is_repeated() => None,
            Some(counts) if !counts.is_empty() => Some(Split::Counts(counts)),
            _ => Some(Split::Evenly(self.part_count())),
        }
    }

    /// The device given for the start of part `part`.
    pub fn device_of_part(&self, part: usize) -> Option<&LitStr> {
        let of_part = self.parts().get(part).map(|Part { device, .. }| device);
        of_part.or(self.first_device())
    }

    /// The process given for part `part`.
    pub fn process_of_part(&self, part: usize) -> Option<usize> {
        self.marks.processes.as_ref()?.value.of_part(part)
    }
}

impl Stage {
    /// The device, unless it is the CPU.
    pub fn accelerator(&self) -> Option<&str> {
        Some(self.device.as_str()).filter(|&device| device != "cpu")
    }

    /// The accelerator and its process: each process has a `cuda:0` of its own.
    pub fn accelerator_site(&self) -> Option<(Option<usize>, &str)> {
        self.accelerator().map(|device| (self.process, device))
    }
}

impl Plan {
    /// The function that sends a value from one stage to another: one that checks that it can go to
    /// another process, if the stages are annotated so.
    pub fn send(&self, from: usize, to: usize, at: Span) -> Ident {
        Ident::new(if self.leaves(from, to) { "send_away" } else { "send" }, at)
    }

    /// The function that sends a lent value from stage `from` to all that get it from there.
    pub fn send_all(&self, lent: usize, from: usize, at: Span) -> Ident {
        let leaves = self.hops_from(lent, from).any(|hop| self.leaves(from, hop.to));
        Ident::new(if leaves { "send_all_away" } else { "send_all" }, at)
    }

    /// Whether the stages are annotated for two processes.
    fn leaves(&self, from: usize, to: usize) -> bool {
        let process = |stage: usize| self.stages.get(stage).and_then(|stage| stage.process);
        matches!((process(from), process(to)), (Some(here), Some(there)) if here != there)
    }

    /// The ways of the lent value `lent` from stage `from` to others.
    pub fn hops_from(&self, lent: usize, from: usize) -> impl Iterator<Item = &Hop> {
        self.hops.iter().filter(move |hop| hop.from == from && hop.lent == lent)
    }

    /// The way of the lent value `lent` to stage `to`, if it comes from another one.
    pub fn hop_to(&self, lent: usize, to: usize) -> Option<&Hop> {
        self.hops.iter().find(|hop| hop.to == to && hop.lent == lent)
    }

    /// The ways of an array's skips out of part `part` of layer `layer`.
    pub fn shares_from(&self, layer: usize, part: usize, name: &Ident) -> Vec<&Share> {
        let name = plain(name);
        self.shares.iter().filter(|share| share.stash == (layer, part) && share.name == name).collect()
    }

    /// The ways of an array's skips into part `part` of layer `layer`, in the order of the layers
    /// that stash.
    pub fn shares_to(&self, layer: usize, part: usize, name: &Ident) -> Vec<&Share> {
        let name = plain(name);
        self.shares.iter().filter(|share| share.pop == (layer, part) && share.name == name).collect()
    }

    /// The route of the skip with the name `name`.
    pub fn route(&self, name: &Ident) -> Option<&Route> {
        let index = *self.by_name.get(&plain(name))?;
        self.routes.get(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::tests::model;

    /// Prints stages as `cuda:0: a b[0] | cpu: b[1]`.
    fn stages(source: &str) -> String {
        let model = model(source);
        let step = |step: &Step| match step.parts {
            1 => model.layers[step.layer].child(),
            _ => format!("{}[{}]", model.layers[step.layer].child(), step.part),
        };
        let stage = |stage: &Stage| {
            let steps: Vec<String> = stage.steps.iter().map(step).collect();
            format!("{}: {}", stage.device, steps.join(" "))
        };
        plan(&model).stages.iter().map(stage).collect::<Vec<_>>().join(" | ")
    }

    /// Prints routes as `a: 0 -> 2`.
    fn routes(source: &str) -> String {
        let plan = plan(&model(source));
        let route = |route: &Route| format!("{}: {} -> {}", route.name, route.from, route.to);
        plan.routes.iter().map(route).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn a_device_holds_until_the_next() {
        let source = r#"struct M { #[device("cuda:0")] a: A, b: B, #[device("cuda:1")] c: C, d: D }"#;
        assert_eq!(stages(source), "cuda:0: a b | cuda:1: c d");
    }

    #[test]
    fn a_recomputed_layer_is_a_piece_of_its_stage() {
        let source = r#"struct M {
            #[device("cpu")] a: A, #[stash(s)] b: B, #[recompute] c: C,
            #[devices("cpu", "cpu")] #[recompute] d: [D; 4],
            #[pop(s)] e: E
        }"#;
        let model = model(source);
        let Pieces { plan, stage_of } = pieces(&model, &plan(&model));
        let names = plan
            .stages
            .iter()
            .map(|piece| piece.steps.iter().map(|step| model.layers[step.layer].child()).collect::<Vec<_>>().join(" "));
        let expected = [(0, "a b"), (0, "c"), (1, "d"), (2, "d"), (2, "e")];
        assert_eq!(
            stage_of.into_iter().zip(names).collect::<Vec<_>>(),
            expected.map(|(stage, names)| (stage, names.to_owned()))
        );
        assert_eq!(plan.routes.iter().map(|route| (route.from, route.to)).collect::<Vec<_>>(), [(0, 4)]);
    }

    #[test]
    fn the_same_accelerator_right_after_goes_on_in_its_stage() {
        let source = r#"struct M { #[device("cuda:0")] a: A, #[device("cuda:0")] b: B, #[device("mps")] c: C, #[device("mps")] d: D }"#;
        assert_eq!(stages(source), "cuda:0: a b | mps: c d");
    }

    #[test]
    fn cpu_opens_a_stage_each_time() {
        let source = r#"struct M { #[device("cpu")] a: A, #[device("cpu")] b: B, c: C }"#;
        assert_eq!(stages(source), "cpu: a | cpu: b c");
    }

    #[test]
    fn the_same_accelerator_of_another_process_is_another_one() {
        let source = r#"struct M { #[device("cuda:0", process = 0)] a: A, b: B, #[device("cuda:0", process = 1)] c: C, #[stage] d: D }"#;
        assert_eq!(stages(source), "cuda:0: a b | cuda:0: c | cuda:0: d");
        let processes: Vec<_> = plan(&model(source)).stages.iter().map(|stage| stage.process).collect();
        assert_eq!(processes, [Some(0), Some(1), Some(1)]);
    }

    #[test]
    fn a_device_may_come_back() {
        let source = r#"struct M { #[device("cuda:0")] a: A, #[device("cuda:1")] b: B, #[device("cuda:0")] c: C }"#;
        assert_eq!(stages(source), "cuda:0: a | cuda:1: b | cuda:0: c");
    }

    #[test]
    fn a_stage_is_forced_on_the_same_device() {
        let source = r#"struct M { #[device("cuda:0")] a: A, #[stage] b: B, #[stage] #[device("cuda:0")] c: C }"#;
        assert_eq!(stages(source), "cuda:0: a | cuda:0: b | cuda:0: c");
    }

    #[test]
    fn the_first_part_of_spread_layers_merges_and_the_last_goes_on() {
        let source = r#"struct M { #[device("cuda:0")] a: A, #[devices("cuda:0", "cuda:1")] b: [B; 4], c: C }"#;
        assert_eq!(stages(source), "cuda:0: a b[0] | cuda:1: b[1] c");
    }

    #[test]
    fn repeated_layers_run_in_the_running_stage() {
        let source = r#"struct M { #[device("cuda:0")] a: A, #[repeat] b: Vec<B>, c: C }"#;
        assert_eq!(stages(source), "cuda:0: a b c");
    }

    #[test]
    fn a_block_is_one_stage() {
        assert_eq!(stages("struct M { a: A, #[repeat] b: [B; 2] }"), ": a b");
    }

    #[test]
    fn the_ends_of_spread_layers_are_in_their_own_stages() {
        let source = r#"struct M {
            #[devices("cpu", "cpu", "cpu")] #[stash(last = output, first = input)] a: [A; 3],
            #[device("cpu")] #[pop(first)] b: B,
            #[pop(last)] c: C,
        }"#;
        assert_eq!(routes(source), "last: 2 -> 3, first: 0 -> 3");
    }

    #[test]
    fn routes_are_in_the_order_of_their_stashes() {
        let source = r#"struct M {
            #[device("cpu")] #[stash(z)] a: A,
            #[stash(y)] b: B,
            #[pop(y)] c: C,
            #[device("cpu")] #[pop(z)] d: D,
        }"#;
        assert_eq!(routes(source), "z: 0 -> 1, y: 0 -> 0");
    }

    #[test]
    fn counts_are_kept_and_anything_else_is_split_evenly() {
        let model = model(
            r#"struct M { #[devices("cpu" = 1, "cpu" = 2)] a: Vec<A>, #[devices("cpu", "cpu")] b: Vec<B>, #[repeat] c: Vec<C>, d: D }"#,
        );
        let splits: Vec<_> = model.layers.iter().map(Layer::split).collect();
        assert_eq!(splits, [Some(Split::Counts(vec![1, 2])), Some(Split::Evenly(2)), Some(Split::Evenly(1)), None]);
    }
}
