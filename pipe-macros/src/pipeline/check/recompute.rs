//! Rules for layers that the backward recomputes.

use syn::LitInt;

use crate::pipeline::declaration::{Mark, Recomputed};
use crate::pipeline::model::{Layer, Model};
use crate::support::errors::{Errors, error, error_at_both};

/// Rejects `#[recompute]` in a struct without devices, which runs as one layer of another struct:
/// `#[recompute] inner: Linear`
pub fn recompute_needs_devices(model: &Model, errors: &mut Errors) {
    for (layer, mark) in marked(model).filter(|_| !model.has_devices) {
        errors.push(error(
            &mark.word,
            format!("`{}` is in a block, of which a pipeline keeps or recomputes the whole inside", layer.ident),
            "write `#[recompute]` on the block, in the struct with the devices",
        ));
    }
}

/// Rejects a number of layers on a single one: `#[recompute(3)] head: Linear`
pub fn only_arrays_are_recomputed_in_part(model: &Model, errors: &mut Errors) {
    for (layer, mark) in marked(model).filter(|(layer, _)| !layer.is_repeated()) {
        if let Some(count) = mark.value.count() {
            errors.push(error(
                count,
                format!("`{}` is a single layer, which is recomputed as a whole", layer.ident),
                "write `#[recompute]`, or write the type as `[Layer; N]` or `Vec<Layer>`",
            ));
        }
    }
}

/// Rejects a number of recomputed layers that is 0 or too large for a number:
/// `#[repeat] #[recompute(0)] blocks: [Block; 4]`
pub fn recomputed_layers_are_counted(model: &Model, errors: &mut Errors) {
    for count in marked(model).filter_map(|(_, mark)| mark.value.count()) {
        if number(count).is_none_or(|number| number == 0) {
            errors.push(error(
                count,
                "this is not a number of layers to recompute",
                "remove the attribute to keep all of them, or write a number such as `3`",
            ));
        }
    }
}

/// Rejects more recomputed layers than the array has:
/// `#[repeat] #[recompute(5)] blocks: [Block; 4]`
///
/// If the length is not a literal, more than there are means all of them.
pub fn recomputed_layers_exist(model: &Model, errors: &mut Errors) {
    for (layer, mark) in marked(model) {
        let (Some(count), Some((len, len_tokens))) = (mark.value.count(), layer.literal_len()) else { continue };
        if number(count).is_some_and(|count| count > len) {
            errors.push(error_at_both(
                count,
                format!("`{}` has {len} layers, of which there are not {count} to recompute", layer.ident),
                "write `#[recompute]` for all of them, or a smaller number",
                len_tokens,
                "the array's length is here",
            ));
        }
    }
}

fn marked(model: &Model) -> impl Iterator<Item = (&Layer, &Mark<Recomputed>)> {
    model.layers.iter().filter_map(|layer| Some((layer, layer.marks.recompute.as_ref()?)))
}

fn number(count: &LitInt) -> Option<usize> {
    count.base10_parse().ok()
}
