//! Rules for settings.

use pipe_schedule::support::spelling::nearest;
use pipe_schedule::{CheapOutputs, Checkpoint, Placement, PlacementError, ScheduleKind, ScheduleKindError};
use proc_macro2::{Ident, TokenStream};
use quote::ToTokens;
use syn::{Expr, ExprUnary, Lit, UnOp};

use crate::pipeline::model::Model;
use crate::pipeline::parse::{self, quoted, schedule_kind, whole_number, word};
use crate::pipeline::plan::{Stage, stages};
use crate::pipeline::prove::{self, Scheduled};
use crate::support::errors::{Errors, error, error_at_both};

const SETTINGS: [&str; 9] =
    ["input", "output", "chunks", "checkpoint", "cheap_outputs", "schedule", "balance", "allow", "crate"];

/// Names of the checkpoint modes.
const MODES: [&str; 3] = [Checkpoint::Always.name(), Checkpoint::ExceptLast.name(), Checkpoint::Never.name()];

const CHUNKS: &str = "number of chunks must be positive integer";

const CHUNKS_HERE: &str = "the number of chunks is set here";

const CHEAP_OUTPUTS: &str = "cheap_outputs is not one of 'keep', 'recompute_pointwise', or 'recompute_all'";

const CHECKPOINT: &str = "checkpoint is not one of 'always', 'except_last', or 'never'";

/// Rejects a setting that does not exist: `#[pipeline(chunk = 8)]`
pub fn no_unknown_settings(model: &Model, errors: &mut Errors) {
    for name in &model.settings.unknown {
        let help = match nearest(&name.to_string(), SETTINGS) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("the settings are `{}`", SETTINGS.join("`, `")),
        };
        errors.push(error(name, format!("unknown setting `{name}`"), help));
    }
}

/// Rejects a number of micro-batches that is not positive: `#[pipeline(chunks = 0)]`
pub fn chunks_are_positive(model: &Model, errors: &mut Errors) {
    let Some(chunks) = &model.settings.chunks else { return };
    if is_number(chunks) && whole_number(chunks).is_none_or(|number| number == 0) {
        errors.push(error(chunks, CHUNKS, "`chunks = 1` runs a mini-batch in one piece"));
    }
}

/// Rejects a number of micro-batches that is not a literal, because it is checked at compile time:
/// `#[pipeline(chunks = CHUNKS)]`
pub fn chunks_are_literals(model: &Model, errors: &mut Errors) {
    let Some(chunks) = model.settings.chunks.as_ref().filter(|chunks| !is_number(chunks)) else { return };
    let help = "write a literal number such as `chunks = 8`; `.chunks(n)` on the pipe takes any value";
    errors.push(error(chunks, CHUNKS, help));
}

/// Rejects a checkpoint mode that does not exist: `#[pipeline(checkpoint = sometimes)]`
pub fn checkpoint_is_known(model: &Model, errors: &mut Errors) {
    let Some(checkpoint) = model.settings.checkpoint.as_ref().filter(|mode| quoted(mode).is_none()) else { return };
    if parse::checkpoint(checkpoint).is_none() {
        let meant = word(checkpoint).and_then(|word| nearest_of(word, &MODES));
        let help = meant.unwrap_or_else(|| "write one of them, such as `checkpoint = except_last`".to_owned());
        errors.push(error(checkpoint, CHECKPOINT, help));
    }
}

/// Rejects a checkpoint mode in quotes, because names are words here:
/// `#[pipeline(checkpoint = "never")]`
pub fn modes_are_words(model: &Model, errors: &mut Errors) {
    let Some(checkpoint) = &model.settings.checkpoint else { return };
    if let Some(text) = quoted(checkpoint) {
        let mode = nearest(&text, MODES).unwrap_or("except_last");
        errors.push(error(checkpoint, CHECKPOINT, format!("write it without quotes: `checkpoint = {mode}`")));
    }
}

/// Rejects what cannot be done with cheap outputs: `#[pipeline(cheap_outputs = all)]`
pub fn cheap_outputs_are_known(model: &Model, errors: &mut Errors) {
    let Some(outputs) = &model.settings.cheap_outputs else { return };
    if parse::cheap_outputs(outputs).is_none() {
        let names = CheapOutputs::ALL.map(CheapOutputs::name);
        let meant = match quoted(outputs) {
            Some(text) => {
                nearest(&text, names).map(|name| format!("write it without quotes: `cheap_outputs = {name}`"))
            }
            None => word(outputs).and_then(|word| nearest_of(word, &names)),
        };
        let help = meant.unwrap_or_else(|| "write one of them, such as `cheap_outputs = recompute_all`".to_owned());
        errors.push(error(outputs, CHEAP_OUTPUTS, help));
    }
}

/// Rejects a schedule that does not exist: `#[pipeline(schedule = gpip)]`
///
/// `1f1b` without quotes is reported by [`one_f_one_b_is_quoted`].
pub fn schedule_is_known(model: &Model, errors: &mut Errors) {
    let Some(schedule) = &model.settings.schedule else { return };
    let name = quoted(schedule).unwrap_or_else(|| schedule.to_token_stream().to_string());
    if let Err(unknown) = name.parse::<ScheduleKind>() {
        let all = || format!("the schedules are {}", ScheduleKind::ALL.map(as_written).join(", "));
        let help = unknown.nearest.map_or_else(all, |meant| format!("did you mean {}?", as_written(meant)));
        errors.push(error(schedule, "unknown schedule", help));
    }
}

/// Rejects a schedule in quotes, because names are words here: `#[pipeline(schedule = "zbv")]`
pub fn schedules_are_words(model: &Model, errors: &mut Errors) {
    let Some(schedule) = &model.settings.schedule else { return };
    let named = quoted(schedule).and_then(|text| text.parse::<ScheduleKind>().ok());
    if let Some(kind) = named.filter(|&kind| kind != ScheduleKind::OneFOneB) {
        let help = format!(
            "write it without quotes: `schedule = {kind}`; only `\"1f1b\"`, which begins with a digit, has them"
        );
        errors.push(error(schedule, format!("the schedule `{kind}` is a word"), help));
    }
}

/// Rejects `1f1b` without quotes, because a word cannot begin with a digit:
/// `#[pipeline(schedule = 1f1b)]`
pub fn one_f_one_b_is_quoted(model: &Model, errors: &mut Errors) {
    let Some(schedule) = &model.settings.schedule else { return };
    if schedule.to_token_stream().to_string() == ScheduleKind::OneFOneB.name() {
        let wrong = "the schedule `1f1b` begins with a digit, so it is not a word";
        errors.push(error(schedule, wrong, "write it in quotes: `schedule = \"1f1b\"`"));
    }
}

/// Rejects a schedule for a struct without devices, which has no stages:
/// `#[pipeline(schedule = zbv)] struct Block { first: Linear }`
pub fn schedules_need_stages(model: &Model, errors: &mut Errors) {
    let Some(schedule) = model.settings.schedule.as_ref().filter(|_| !model.has_devices) else { return };
    if schedule_kind(schedule).is_some() {
        let wrong = "a model without devices has no stages, so it has no schedule";
        let help = "give the first layer a device, for example `#[device(\"cuda:0\")]`, or remove the setting";
        errors.push(error(schedule, wrong, help));
    }
}

/// Rejects a number of CPU stages that does not divide into ranks as the schedule needs:
///
/// `#[pipeline(schedule = zbv)] struct Model { #[device("cpu")] a: A, #[device("cpu")] b: B,
/// #[device("cpu")] c: C }`
///
/// With accelerators, [`stages_are_spread_evenly`] reports it.
pub fn stages_divide_over_ranks(model: &Model, errors: &mut Errors) {
    let Some(Scheduled { kind, written, ranks: Err(wrong), stages, .. }) = Scheduled::of(model) else { return };
    let PlacementError::StagesPerRank { stages_per_rank, .. } = wrong else { return };
    let stages = stages.len();
    let wrong = format!("`{kind}` runs {stages_per_rank} stages on each rank, and the model's {stages} do not divide");
    let above = stages.next_multiple_of(stages_per_rank);
    let ranks = (2..stages).find(|&ranks| stages.is_multiple_of(ranks)).filter(|_| kind.stages_per_rank().is_none());
    let or = match ranks {
        Some(ranks) => format!("choose both when building: `.schedule(ScheduleKind::{kind:?}).ranks({ranks})`"),
        None => "use `gpipe`, `1f1b` or `zb_h1`".to_owned(),
    };
    errors.push(error(written, wrong, format!("make it {above} stages, or {or}")));
}

/// Rejects devices with different numbers of stages, or with another number than the schedule
/// needs:
///
/// `#[pipeline(schedule = zbv)] struct Model { #[device("cuda:0")] a: A, #[device("cuda:1")] b: B
/// }`
pub fn stages_are_spread_evenly(model: &Model, errors: &mut Errors) {
    let Some(scheduled) = Scheduled::of(model) else { return };
    let Scheduled { kind, written, .. } = scheduled;
    match scheduled.refusal() {
        Some(ScheduleKindError::StagesPerRank { needed, stages_per_rank, ranks, .. }) => {
            let wrong = format!(
                "`{kind}` runs {} on each device, but each of the {ranks} devices has {stages_per_rank}",
                number_of_stages(needed)
            );
            let others = match stages_per_rank {
                1 => "`1f1b`, `zb_h1` or `zb_h2`",
                _ => "`interleaved`, `looped_bfs` or `zb_h1`",
            };
            let help = match (needed, kind.placement()) {
                (2.., Placement::V) => format!("{}, or use {others}", there_and_back(kind)),
                _ => format!("give each stage a device of its own, or use {others}"),
            };
            errors.push(error(written, wrong, help));
        }
        Some(ScheduleKindError::Uneven { rank, stages, most, .. }) => {
            let (Some(full), Some(short)) = (scheduled.fullest(most), scheduled.first_stage(rank)) else { return };
            let here = format!("{} has {}", rank_name(short), number_of_stages(stages));
            let full = rank_name(full);
            let wrong =
                format!("`{kind}` runs the same number of stages on each device, but {here}, and {full} has {most}");
            let help = match kind.placement() {
                Placement::V => there_and_back(kind),
                Placement::Loop => "give all devices the same number of stages".to_owned(),
            };
            let opening = opening(model, short);
            errors.push(error_at_both(written, wrong, format!("{help}, or use `gpipe`"), opening, here));
        }
        _ => {}
    }
}

/// Rejects stages that go through the devices in another order than the schedule's:
///
/// `#[pipeline(schedule = zbv)] struct Model { #[device("cuda:0")] a: A, #[device("cuda:1")] b: B,
/// #[device("cuda:0")] c: C, #[device("cuda:1")] d: D }`
pub fn stages_are_in_the_schedules_order(model: &Model, errors: &mut Errors) {
    let Some(scheduled) = Scheduled::of(model) else { return };
    let Some(ScheduleKindError::Placement { stage, needed, .. }) = scheduled.refusal() else { return };
    let Scheduled { kind, written, stages, .. } = &scheduled;
    let (Some(there), Some(meant)) = (stages.get(stage), scheduled.first_stage(needed)) else { return };
    let (way, help) = match kind.placement() {
        Placement::V => ("to the last device and back", there_and_back(*kind)),
        Placement::Loop => (
            "from the first device to the last, again and again",
            "name the devices in the same order each time".to_owned(),
        ),
    };
    let (is, should) = (rank_name(there), rank_name(meant));
    errors.push(error_at_both(
        written,
        format!("`{kind}` goes {way}: stage {stage} would be on {should}, not on {is}"),
        format!("{help}, or use `gpipe`, which takes any order"),
        opening(model, there),
        format!("stage {stage} begins here"),
    ));
}

/// Rejects too few micro-batches for a schedule that fills the pipeline from both ends:
/// `#[pipeline(schedule = dualpipe_v, chunks = 2)]`
///
/// The runtime handles a mini-batch with fewer rows than chunks.
pub fn chunks_fill_the_pipeline(model: &Model, errors: &mut Errors) {
    let Some(scheduled) = Scheduled::of(model) else { return };
    let Some((ScheduleKindError::TooFewMicroBatches { needed, ranks, .. }, (chunks, place))) =
        scheduled.refusal().zip(scheduled.chunks)
    else {
        return;
    };
    let Scheduled { kind, written, .. } = scheduled;
    errors.push(error_at_both(
        written,
        format!("`{kind}` on {ranks} ranks needs at least {needed} micro-batches, but `chunks = {chunks}`"),
        format!("write `chunks = {needed}`, or use a schedule that takes fewer, such as `zbv`"),
        place,
        CHUNKS_HERE,
    ));
}

/// Rejects a number of micro-batches that does not divide into equal rounds, for schedules with
/// rounds: `#[pipeline(schedule = interleaved, chunks = 5)]`
pub fn chunks_make_equal_rounds(model: &Model, errors: &mut Errors) {
    let Some(scheduled) = Scheduled::of(model) else { return };
    let Some((ScheduleKindError::Rounds { rounds, ranks, below, above, .. }, (chunks, place))) =
        scheduled.refusal().zip(scheduled.chunks)
    else {
        return;
    };
    let Scheduled { kind, written, .. } = scheduled;
    errors.push(error_at_both(
        written,
        format!(
            "`{kind}` on {ranks} ranks goes through the micro-batches in {rounds} equal rounds, but `chunks = {chunks}` is not a multiple of {rounds}"
        ),
        format!("write `chunks = {below}` or `chunks = {above}`, or use `looped_bfs`"),
        place,
        CHUNKS_HERE,
    ));
}

/// Rejects so many micro-batches that the list of steps would not fit into memory:
/// `#[pipeline(chunks = 1000000000)]`
///
/// This holds without a schedule too: every schedule runs each micro-batch in each stage.
pub fn chunks_fit_into_memory(model: &Model, errors: &mut Errors) {
    let Some((chunks, place)) = prove::chunks(model).filter(|_| model.has_devices) else { return };
    let stages = stages(model).len().max(1);
    let most = ScheduleKindError::MOST_ACTIONS / 3 / stages;
    if chunks > most {
        let wrong =
            format!("{} and {chunks} micro-batches are more steps than can be listed", number_of_stages(stages));
        errors.push(error(place, wrong, format!("write at most `chunks = {most}`")));
    }
}

/// Formats a schedule as it is written in the settings.
fn as_written(kind: ScheduleKind) -> String {
    format!("`{}`", kind.as_setting())
}

fn number_of_stages(stages: usize) -> String {
    format!("{stages} stage{}", if stages == 1 { "" } else { "s" })
}

/// The help about stages in a V.
fn there_and_back(kind: ScheduleKind) -> String {
    format!("annotate the devices there and back, as `{kind}` goes, with `#[stage]` for the turn on the last one")
}

/// A description of the rank whose first stage this is. Beside accelerators, each CPU stage is a
/// rank.
fn rank_name(stage: &Stage) -> String {
    match stage.accelerator() {
        Some(device) => format!("`{device}`"),
        None => "a `cpu` core".to_owned(),
    }
}

/// The place where a stage is opened.
pub fn opening(model: &Model, stage: &Stage) -> TokenStream {
    let Some(step) = stage.steps.first() else { return TokenStream::new() };
    let layer = &model.layers[step.layer];
    let forced = layer.marks.stage.as_ref().map(|mark| mark.word.to_token_stream());
    let asked = layer.device_of_part(step.part).map(ToTokens::to_token_stream);
    asked.or(forced).unwrap_or_else(|| layer.ident.to_token_stream())
}

fn nearest_of(word: &Ident, known: &[&'static str]) -> Option<String> {
    nearest(&word.to_string(), known.iter().copied()).map(|meant| format!("did you mean `{meant}`?"))
}

/// Whether the value is an integer literal, of any size and sign.
fn is_number(value: &Expr) -> bool {
    match value {
        Expr::Lit(literal) => matches!(literal.lit, Lit::Int(_)),
        Expr::Unary(ExprUnary { op: UnOp::Neg(_), expr, .. }) => is_number(expr),
        Expr::Group(group) => is_number(&group.expr),
        _ => false,
    }
}
