//! The rules for a struct, one function each, in files with the names of the folders of
//! `ui-tests/cases`.
//!
//! The comment above a function says what it rejects, with an example that breaks the rule. One
//! rule reports each mistake: where two rules could report it, the comment says which one does.

mod children;
mod devices;
mod form;
mod lends;
mod processes;
mod recompute;
mod settings;
mod skips;
mod sums;
mod warnings;

use crate::pipeline::model::Model;
use crate::support::errors::Errors;

#[cfg(test)]
pub use form::is_local;
pub use warnings::{Warning, warnings};

/// Reports every broken rule.
pub fn check(model: &Model, errors: &mut Errors) {
    form::plain_fields_say_nothing_about_layers(model, errors);
    form::constants_are_not_called_as_locals(model, errors);
    form::arrays_say_how_they_run(model, errors);
    form::only_arrays_repeat(model, errors);
    form::one_way_to_run_an_array(model, errors);

    devices::devices_are_readable(model, errors);
    devices::devices_name_their_index(model, errors);
    devices::misspelt_devices_suggest_one(model, errors);
    devices::device_indices_are_small(model, errors);
    devices::the_first_layer_has_one(model, errors);
    devices::plain_fields_have_none(model, errors);
    devices::plain_fields_open_no_stage(model, errors);
    devices::one_device_attribute_per_field(model, errors);
    devices::single_layers_are_not_spread(model, errors);
    devices::all_or_no_counts(model, errors);
    devices::counts_are_positive(model, errors);
    devices::counts_are_numbers(model, errors);
    devices::counts_add_up(model, errors);
    devices::no_device_is_left_over(model, errors);
    devices::arrays_hold_layers(model, errors);
    devices::stages_need_devices(model, errors);
    devices::the_first_layer_ends_no_stage(model, errors);
    devices::layers_on_devices_borrow_nothing(model, errors);

    processes::all_or_no_processes(model, errors);
    processes::a_process_for_each_device(model, errors);
    processes::processes_are_numbers(model, errors);
    processes::processes_have_no_gap(model, errors);

    recompute::recompute_needs_devices(model, errors);
    recompute::only_arrays_are_recomputed_in_part(model, errors);
    recompute::recomputed_layers_are_counted(model, errors);
    recompute::recomputed_layers_exist(model, errors);

    // Without errors so far, the stages are what the user means.
    if errors.is_empty() {
        settings::stages_divide_over_ranks(model, errors);
        settings::stages_are_spread_evenly(model, errors);
        settings::stages_are_in_the_schedules_order(model, errors);
        settings::chunks_fill_the_pipeline(model, errors);
        settings::chunks_make_equal_rounds(model, errors);
        settings::chunks_fit_into_memory(model, errors);
        processes::ranks_are_in_one_process(model, errors);
    }

    settings::no_unknown_settings(model, errors);
    settings::chunks_are_positive(model, errors);
    settings::chunks_are_literals(model, errors);
    settings::checkpoint_is_known(model, errors);
    settings::cheap_outputs_are_known(model, errors);
    settings::modes_are_words(model, errors);
    settings::schedule_is_known(model, errors);
    settings::schedules_are_words(model, errors);
    settings::one_f_one_b_is_quoted(model, errors);
    settings::schedules_need_stages(model, errors);
    warnings::allow_names_warnings(model, errors);

    children::names_are_one_segment(model, errors);
    children::names_are_not_empty(model, errors);
    children::names_differ(model, errors);
    children::names_hide_no_method(model, errors);
    children::layers_are_owned(model, errors);
    children::layers_are_not_borrowed(model, errors);

    skips::stashed_once(model, errors);
    skips::stashed_once_by_a_layer(model, errors);
    skips::popped_once(model, errors);
    skips::popped_once_by_a_layer(model, errors);
    skips::not_stashed_and_popped_by_one_layer(model, errors);
    skips::stashed_before_popped(model, errors);
    skips::popped_if_stashed(model, errors);
    skips::stashed_if_popped(model, errors);
    skips::misspelt_pops_suggest_a_name(model, errors);
    skips::arrays_keep_only_their_ends(model, errors);
    skips::arrays_pop_nothing(model, errors);
    skips::only_arrays_have_a_skip_each(model, errors);
    skips::both_ends_have_a_skip_each(model, errors);
    skips::arrays_of_a_skip_each_are_as_long(model, errors);
    skips::optional_layers_have_no_skips(model, errors);

    lends::lent_once(model, errors);
    lends::read_if_lent(model, errors);
    lends::lent_if_read(model, errors);
    lends::misspelt_reads_suggest_a_name(model, errors);
    lends::lent_before_read(model, errors);
    lends::not_read_by_the_lender(model, errors);
    lends::read_once_by_a_layer(model, errors);
    lends::names_are_stashed_or_lent(model, errors);
    lends::names_are_popped_or_read(model, errors);
    lends::arrays_lend_only_their_ends(model, errors);
    lends::optional_layers_read_nothing(model, errors);
    lends::only_blocks_read_from_outside(model, errors);
    lends::declared_values_are_read(model, errors);
    lends::declared_values_are_not_lent(model, errors);

    sums::sums_arrive_beside_the_output(model, errors);
    sums::misspelt_sums_suggest_a_name(model, errors);
    sums::declared_sums_are_added_to(model, errors);
    sums::sums_are_declared_once(model, errors);
    sums::added_once_by_a_layer(model, errors);
    sums::optional_layers_add_nothing(model, errors);
}
