//! Warnings about structs that work but are rarely meant. Each can be allowed by its name:
//! `#[pipeline(allow(single_stage))]`.

use pipe_schedule::support::spelling::nearest;
use pipe_schedule::{Checkpoint, ScheduleKind};
use proc_macro2::Span;
use quote::ToTokens;

use crate::pipeline::declaration::Kept;
use crate::pipeline::model::Model;
use crate::pipeline::parse::{self, whole_number, word};
use crate::pipeline::plan::{Plan, Route};
use crate::pipeline::prove::Scheduled;
use crate::support::errors::{Errors, error};
use crate::support::names::plain;

const WARNINGS: [&str; 7] = [
    "single_stage",
    "short_skip",
    "single_reader",
    "except_last_of_one_chunk",
    "name_differs_by_case",
    "recompute_beside_always",
    "recompute_of_the_last",
];

/// A warning, with its name and place.
pub struct Warning {
    pub name: &'static str,
    pub place: Span,
    pub wrong: String,
    pub help: String,
}

/// Rejects a name in `allow(..)` that is not a warning: `#[pipeline(allow(single_stag))]`
pub fn allow_names_warnings(model: &Model, errors: &mut Errors) {
    for name in model.settings.allowed.iter().filter(|name| !WARNINGS.iter().any(|known| name == known)) {
        let help = match nearest(&name.to_string(), WARNINGS) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("the warnings are `{}`", WARNINGS.join("`, `")),
        };
        errors.push(error(name, format!("unknown warning `{name}`"), help));
    }
}

/// All warnings about a model without errors, except those that it allows.
pub fn warnings(model: &Model, plan: &Plan) -> Vec<Warning> {
    let mut warnings = Vec::new();
    warnings.extend(except_last_of_one_chunk(model));
    warnings.extend(single_stage(model, plan));
    warnings.extend(recompute_beside_always(model));
    warnings.extend(recompute_of_the_last(model));
    warnings.extend(name_differs_by_case(model));
    warnings.extend(short_skip(model, plan));
    warnings.extend(single_reader(model));
    warnings.retain(|warning| !model.settings.allowed.iter().any(|allowed| allowed == warning.name));
    warnings
}

/// Warns of `except_last` with one micro-batch, which checkpoints nothing:
///
/// `#[pipeline(chunks = 1, checkpoint = except_last)]`
///
/// Both must be written: if `chunks` is left out, it is chosen at run time.
fn except_last_of_one_chunk(model: &Model) -> Option<Warning> {
    let chunks = model.settings.chunks.as_ref().and_then(whole_number)?;
    let checkpoint = model.settings.checkpoint.as_ref()?;
    let place = word(checkpoint)?.span();
    (chunks == 1 && parse::checkpoint(checkpoint) == Some(Checkpoint::ExceptLast)).then(|| Warning {
        name: "except_last_of_one_chunk",
        place,
        wrong: "the only micro-batch is the last one, so nothing is checkpointed".to_owned(),
        help: "write `checkpoint = always`, or more `chunks`".to_owned(),
    })
}

/// Warns of a pipeline with one stage, which overlaps nothing:
///
/// `#[device("cuda:0")] encode: Encode, decode: Decode`
fn single_stage(model: &Model, plan: &Plan) -> Option<Warning> {
    let [stage] = plan.stages.as_slice() else { return None };
    let device = model.layers.first()?.first_device()?;
    Some(Warning {
        name: "single_stage",
        place: device.span(),
        wrong: format!("all layers run in one stage on `{}`, so nothing runs at the same time", stage.device),
        help: "open another stage with `#[device(..)]` or `#[stage]`".to_owned(),
    })
}

/// Warns of layers that are to be recomputed where whole stages are:
///
/// `#[pipeline(checkpoint = always)] struct Model { #[device("cpu")] #[recompute] encode: Encode }`
fn recompute_beside_always(model: &Model) -> Option<Warning> {
    let checkpoint = model.settings.checkpoint.as_ref()?;
    let mark = model.layers.iter().find_map(|layer| layer.marks.recompute.as_ref())?;
    (parse::checkpoint(checkpoint) == Some(Checkpoint::Always)).then(|| Warning {
        name: "recompute_beside_always",
        place: mark.word.span(),
        wrong: "`checkpoint = always` recomputes whole stages already, and this layer with them".to_owned(),
        help: "write `checkpoint = never` to recompute what is marked alone, or remove `#[recompute]`".to_owned(),
    })
}

/// Warns of a last layer that is recomputed at once, right after its forward:
///
/// `#[pipeline(schedule = "1f1b")] struct Model { #[device("cpu")] a: A, #[device("cpu")]
/// #[recompute] b: B }`
///
/// In the schedules that run all forwards first, the last stage keeps all micro-batches. A balance
/// file is not warned of: it was measured.
fn recompute_of_the_last(model: &Model) -> Option<Warning> {
    let kind = Scheduled::of(model)?.kind;
    let last = model.layers.last().filter(|layer| !layer.is_repeated())?;
    let mark = last.marks.recompute.as_ref().filter(|mark| mark.word != "balance")?;
    (!matches!(kind, ScheduleKind::GPipe | ScheduleKind::LoopedBfs)).then(|| Warning {
        name: "recompute_of_the_last",
        place: mark.word.span(),
        wrong: format!(
            "`{kind}` runs the backward of the last layer right after its forward, so this keeps nothing less"
        ),
        help: "mark layers before it".to_owned(),
    })
}

/// Warns of a name that differs from the field's only by case, which is probably a slip that ends
/// up in parameter files:
///
/// `#[layer(name = "Encode")] encode: Encode`
///
/// It is probably a slip, and parameter files would have the wrong name.
fn name_differs_by_case(model: &Model) -> impl Iterator<Item = Warning> {
    model.layers.iter().filter_map(|layer| {
        let (name, field) = (layer.marks.layer.as_ref()?, plain(&layer.ident));
        let child = layer.child();
        (child != field && child.to_lowercase() == field.to_lowercase()).then(|| Warning {
            name: "name_differs_by_case",
            place: name.value.span(),
            wrong: format!("the name `{child}` differs from the field's only by case"),
            help: format!("remove it to name the layer `{field}`"),
        })
    })
}

/// Warns of a skip from a stage's last layer to the next stage's first layer. It skips no layer,
/// and makes the boundary send a second value. If the boundary were one layer earlier or later, the
/// skip would be local to a stage.
///
/// `#[stash(a)] encode: Encode, #[device("cuda:1")] #[pop(a)] decode: Decode`
///
/// This is reported only if the boundary can move: one of the two stages has other layers, and the
/// layer next to the boundary is not part of a spread array, which has its own cuts.
fn short_skip(model: &Model, plan: &Plan) -> impl Iterator<Item = Warning> {
    plan.routes.iter().filter(|route| route.pop == route.stash + 1 && route.crosses()).filter_map(|route| {
        let (stash, pop) = (&model.layers[route.stash].ident, &model.layers[route.pop].ident);
        Some(Warning {
            name: "short_skip",
            place: route.pop_ident.span(),
            wrong: format!(
                "`{}` goes from `{stash}` to its neighbour `{pop}`, yet crosses a stage boundary",
                route.name
            ),
            help: format!("{}, so that both run in one", moved(model, plan, route)?),
        })
    })
}

/// How the boundary could move so that the skip stays in one stage; `None` if it cannot.
fn moved(model: &Model, plan: &Plan, route: &Route) -> Option<String> {
    let (from, to) = (plan.stages.get(route.from)?, plan.stages.get(route.to)?);
    let stash_is_whole = from.steps.last().is_some_and(|step| step.parts == 1);
    if from.steps.len() > 1 && stash_is_whole {
        return Some(format!("open the stage at `{}`", model.layers[route.stash].ident));
    }
    let below = to.steps.get(1).filter(|step| step.part == 0)?;
    Some(format!("open the stage at `{}`", model.layers[below.layer].ident))
}

/// Warns of a lent value that one layer reads, which is a skip:
///
/// `#[lend(a = output)] encode: Encode, middle: Middle, #[read(a)] decode: Decode`
///
/// A weight is lent to a single layer, too, and each layer of an array reads.
fn single_reader(model: &Model) -> impl Iterator<Item = Warning> {
    model.lent.iter().filter_map(|lent| {
        let (lend, [read]) = (lent.lends.first()?, lent.reads.as_slice()) else { return None };
        let (from, to) = (&model.layers[lend.layer], &model.layers[read.layer]);
        let what = match lend.what {
            Kept::Input => "input",
            Kept::Output => "output",
            Kept::Tied | Kept::Returned => return None,
        };
        let stashed = from.lends().iter().find(|other| plain(&other.name) == lent.name)?;
        let part: String = stashed.part.iter().map(|member| format!(".{}", member.to_token_stream())).collect();
        let name = &lent.name;
        (!to.is_repeated()).then(|| Warning {
            name: "single_reader",
            place: lend.name.span(),
            wrong: format!("`{name}` is lent to `{}` alone, so it is a skip", to.ident),
            help: format!("write `#[stash({name} = {what}{part})]` and `#[pop({name})]`, so that it is freed there"),
        })
    })
}
