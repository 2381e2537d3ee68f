//! Rules for processes.

use quote::ToTokens;
use syn::LitInt;

use super::settings::opening;
use crate::pipeline::declaration::{Mark, Processes};
use crate::pipeline::model::Model;
use crate::pipeline::prove::Scheduled;
use crate::support::errors::{Errors, error, error_at_both};

/// Rejects devices without a process beside devices with one, because a process holds only for its
/// device: `#[device("cpu", process = 0)] a: A, #[device("cpu")] b: B`
pub fn all_or_no_processes(model: &Model, errors: &mut Errors) {
    let Some(named) = model.layers.iter().find_map(|layer| layer.marks.processes.as_ref()) else { return };
    for layer in model.layers.iter().filter(|layer| layer.marks.processes.is_none()) {
        let Some(device) = layer.first_device() else { continue };
        errors.push(error_at_both(
            device,
            "this device has no process, but another one has",
            format!("say in which process it is: `{}, process = 0`", device.to_token_stream()),
            &named.word,
            "a process is named here",
        ));
    }
}

/// Rejects a list of processes that is not as long as the list of devices:
/// `#[devices("cpu", "cpu", process = [0, 1, 2])]`
pub fn a_process_for_each_device(model: &Model, errors: &mut Errors) {
    for layer in &model.layers {
        let Some(Mark { word, value: Processes::Each(numbers) }) = &layer.marks.processes else { continue };
        let (devices, processes) = (layer.parts().len(), numbers.len());
        if devices != processes {
            errors.push(error(
                word,
                format!("there are {devices} devices and {processes} processes"),
                "name one process for each device, or a single one for all of them",
            ));
        }
    }
}

/// Rejects a number that is too large to count processes: `#[device("cpu", process = 1e30)]`
pub fn processes_are_numbers(model: &Model, errors: &mut Errors) {
    for number in numbers(model).filter(|number| number.base10_parse::<usize>().is_err()) {
        errors.push(error(number, "this is not the number of a process", "processes count from 0: `process = 1`"));
    }
}

/// Rejects processes that do not count from 0 without a gap, because each one that is started runs
/// a stage: `#[device("cpu", process = 0)] a: A, #[device("cpu", process = 2)] b: B`
///
/// If a number or a device cannot be read, it may be the missing one.
pub fn processes_have_no_gap(model: &Model, errors: &mut Errors) {
    let unreadable = |word: &str| model.layers.iter().any(|layer| layer.marks.is_unreadable(word));
    if unreadable("device")
        || unreadable("devices")
        || numbers(model).any(|number| number.base10_parse::<usize>().is_err())
    {
        return;
    }
    let named: Vec<(usize, &LitInt)> =
        numbers(model).filter_map(|number| Some((number.base10_parse().ok()?, number))).collect();
    let is_named = |process: usize| named.iter().any(|(number, _)| *number == process);
    let Some((above, number)) = named.iter().find(|(number, _)| *number > 0 && !is_named(number - 1)) else { return };
    errors.push(error(
        number,
        format!("no stage is in process {}, but one is in process {above}", above - 1),
        "processes count from 0 without a gap",
    ));
}

/// Rejects stages that a schedule runs on one rank, but that are in different processes:
///
/// `#[pipeline(schedule = zbv)] struct Model { #[device("cpu", process = 0)] a: A, #[device("cpu",
/// process = 0)] b: B, #[device("cpu", process = 1)] c: C, #[device("cpu", process = 1)] d: D }`
pub fn ranks_are_in_one_process(model: &Model, errors: &mut Errors) {
    let Some(scheduled) = Scheduled::of(model).filter(|scheduled| scheduled.refusal().is_none()) else { return };
    let Scheduled { kind, written, stages, ranks: Ok(ranks), .. } = &scheduled else { return };
    for (later, (stage, rank)) in stages.iter().zip(ranks).enumerate() {
        let Some(first) = ranks.iter().position(|other| other == rank).filter(|first| *first < later) else { continue };
        if let (Some(there), Some(here)) = (stages[first].process, stage.process)
            && there != here
        {
            errors.push(error_at_both(
                written,
                format!(
                    "`{kind}` runs stages {first} and {later} on one rank, but they are in processes {there} and {here}"
                ),
                "put both into one process, or use `gpipe`, `\"1f1b\"` or `zb_h1`, which run one stage on each rank",
                opening(model, stage),
                format!("stage {later} begins here"),
            ));
            return;
        }
    }
}

/// All numbers of processes, as they are written.
fn numbers(model: &Model) -> impl Iterator<Item = &LitInt> {
    let marks = model.layers.iter().filter_map(|layer| layer.marks.processes.as_ref());
    marks.flat_map(|mark| mark.value.numbers())
}
