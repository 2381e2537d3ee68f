//! Rules for devices and stages.

use quote::quote;
use syn::{LitInt, LitStr};

use crate::pipeline::declaration::{Marks, Part};
use crate::pipeline::model::{Layer, Model};
use crate::support::device::{self, Unreadable};
use crate::support::errors::{Errors, error, error_at_both};

const NOT_A_LAYER: &str = "it is said here that the field is not a layer";

/// Rejects a device that torch does not know: `#[device("toaster")]`
pub fn devices_are_readable(model: &Model, errors: &mut Errors) {
    for (device, why) in unreadable(model) {
        if why == Unreadable::Unknown {
            let help = "devices are `cpu`, `cuda:N`, `mps` and `xpu:N`";
            errors.push(error(device, format!("`{}` is not a device", device.value()), help));
        }
    }
}

/// Rejects an accelerator without an index: `#[device("cuda")]`
pub fn devices_name_their_index(model: &Model, errors: &mut Errors) {
    for (device, why) in unreadable(model) {
        if let Unreadable::NoIndex(meant) = why {
            let wrong = format!("`{}` does not say which one", device.value());
            errors.push(error(device, wrong, format!("name the index: `{meant}`")));
        }
    }
}

/// Rejects a misspelt device, and suggests the nearest one: `#[device("gpu:0")]`
pub fn misspelt_devices_suggest_one(model: &Model, errors: &mut Errors) {
    for (device, why) in unreadable(model) {
        if let Unreadable::Meant(meant) = why {
            let wrong = format!("`{}` is not a device", device.value());
            errors.push(error(device, wrong, format!("did you mean `{meant}`?")));
        }
    }
}

/// Rejects an index over 127, because torch stores it in a signed byte: `#[device("cuda:128")]`
pub fn device_indices_are_small(model: &Model, errors: &mut Errors) {
    for (device, why) in unreadable(model) {
        if why == Unreadable::TooMany {
            let wrong = format!("`{}` is more than there can be", device.value());
            errors.push(error(device, wrong, "indices go from 0 to 127"));
        }
    }
}

/// Rejects a model with devices whose first layer has none, because later layers continue on the
/// device of the one before:
///
/// `encode: Encode, #[device("cuda:0")] decode: Decode`
///
/// A layer without a device runs where the one before it runs.
pub fn the_first_layer_has_one(model: &Model, errors: &mut Errors) {
    let Some(first) = model.layers.first().filter(|first| !first.marks.asks_for_a_device()) else { return };
    let Some((placed, device)) = model.layers.iter().find_map(|layer| Some((layer, layer.first_device()?))) else {
        return;
    };
    let example = Some(device.value()).filter(|device| device::read(device).is_ok());
    let example = example.unwrap_or_else(|| "cuda:0".to_owned());
    errors.push(error_at_both(
        &first.ident,
        format!("`{}` is the first layer and has no device, but `{}` has one", first.ident, placed.ident),
        format!("say where the first layer runs, for example `#[device(\"{example}\")]`"),
        device,
        "the first device is here",
    ));
}

/// Rejects a device on a plain field, which does not run:
/// `#[not_a_layer] #[device("cpu")] config: Config`
pub fn plain_fields_have_none(model: &Model, errors: &mut Errors) {
    for field in &model.plain_fields {
        let Marks { device, devices, not_a_layer: Some(not_a_layer), .. } = &field.marks else { continue };
        let words = [device.as_ref().map(|mark| &mark.word), devices.as_ref().map(|mark| &mark.word)];
        for word in words.into_iter().flatten() {
            errors.push(error_at_both(
                word,
                format!("`{}` is not a layer, so it runs on no device", field.ident),
                format!("move `#[{word}]` to the layer that is meant, or remove `#[not_a_layer]`"),
                &not_a_layer.word,
                NOT_A_LAYER,
            ));
        }
    }
}

/// Rejects `#[stage]` on a plain field, which does not run:
/// `#[not_a_layer] #[stage] config: Config`
pub fn plain_fields_open_no_stage(model: &Model, errors: &mut Errors) {
    for field in &model.plain_fields {
        let Marks { stage: Some(stage), not_a_layer: Some(not_a_layer), .. } = &field.marks else { continue };
        errors.push(error_at_both(
            &stage.word,
            format!("`{}` is not a layer, so no stage begins with it", field.ident),
            "move `#[stage]` to the first layer of the stage",
            &not_a_layer.word,
            NOT_A_LAYER,
        ));
    }
}

/// Rejects a field with both attributes:
/// `#[device("cpu")] #[devices("cpu", "cpu")] blocks: [Block; 4]`
pub fn one_device_attribute_per_field(model: &Model, errors: &mut Errors) {
    for layer in &model.layers {
        if let (Some(device), Some(devices)) = (&layer.marks.device, &layer.marks.devices) {
            errors.push(error_at_both(
                &device.word,
                format!("`{}` has both `#[device(..)]` and `#[devices(..)]`", layer.ident),
                "`#[devices(..)]` names all of them, the first one too",
                &devices.word,
                "`#[devices(..)]` is here",
            ));
        }
    }
}

/// Rejects several devices for a single layer: `#[devices("cuda:0", "cuda:1")] head: Linear`
pub fn single_layers_are_not_spread(model: &Model, errors: &mut Errors) {
    for layer in model.layers.iter().filter(|layer| !layer.is_repeated()) {
        if let Some(devices) = &layer.marks.devices {
            errors.push(error(
                &devices.word,
                format!("`{}` is a single layer: it cannot be spread over devices", layer.ident),
                "write `#[device(\"..\")]`, or make the type `[Layer; N]` or `Vec<Layer>`",
            ));
        }
    }
}

/// Rejects counts on some of the devices but not on all: `#[devices("cuda:0" = 5, "cuda:1")]`
pub fn all_or_no_counts(model: &Model, errors: &mut Errors) {
    for parts in model.layers.iter().map(Layer::parts) {
        let Some(counted) = parts.iter().find(|part| part.count.is_some()) else { continue };
        for part in parts.iter().filter(|part| part.count.is_none()) {
            errors.push(error_at_both(
                &part.device,
                "this device has no number of layers, but another one has",
                format!("write `\"{}\" = 1`, or give no numbers to split evenly", part.device.value()),
                &counted.device,
                "this device has a number of layers",
            ));
        }
    }
}

/// Rejects a count of zero: `#[devices("cuda:0" = 0, "cuda:1" = 4)]`
pub fn counts_are_positive(model: &Model, errors: &mut Errors) {
    for count in counts(model).filter(|count| count.base10_parse::<usize>().is_ok_and(|count| count == 0)) {
        let wrong = "this device gets no layers, and a stage needs at least one";
        errors.push(error(count, wrong, "remove the device, or give it a layer"));
    }
}

/// Rejects a count that is too large: `#[devices("cuda:0" = 99999999999999999999, "cuda:1" = 4)]`
pub fn counts_are_numbers(model: &Model, errors: &mut Errors) {
    for count in counts(model).filter(|count| count.base10_parse::<usize>().is_err()) {
        errors.push(error(count, "this is not a number of layers", "write a number such as `4`"));
    }
}

/// Rejects counts that do not add up to the length of the array:
///
/// `#[devices("cuda:0" = 2, "cuda:1" = 3)] blocks: [Block; 4]`
///
/// If the length is not a literal, the runtime checks this when it builds the pipeline. Counts of
/// zero are reported by [`counts_are_positive`].
pub fn counts_add_up(model: &Model, errors: &mut Errors) {
    for layer in &model.layers {
        let Some((len, len_tokens)) = layer.literal_len() else { continue };
        let counts: Option<Vec<usize>> = layer.parts().iter().map(Part::count).collect();
        let Some(counts) = counts.filter(|counts| !counts.is_empty() && !counts.contains(&0)) else { continue };
        let sum = counts.iter().fold(0usize, |sum, count| sum.saturating_add(*count));
        if sum != len {
            let counts: Vec<String> = counts.iter().map(usize::to_string).collect();
            errors.push(error_at_both(
                all_parts(layer),
                format!("the devices get {} = {sum} layers, but the array has {len}", counts.join(" + ")),
                "make the numbers add up, or give none to split evenly",
                len_tokens,
                "the array's length is here",
            ));
        }
    }
}

/// Rejects more devices than layers, because every stage needs a layer:
///
/// `#[devices("cuda:0", "cuda:1", "cuda:2")] blocks: [Block; 2]`
///
/// Counts of zero are reported by [`counts_are_positive`], and arrays without layers by
/// [`arrays_hold_layers`].
pub fn no_device_is_left_over(model: &Model, errors: &mut Errors) {
    for layer in &model.layers {
        let Some((len, len_tokens)) = layer.literal_len().filter(|(len, _)| *len > 0) else { continue };
        let split_evenly = layer.parts().iter().all(|part| part.count.is_none());
        if let Some(part) = layer.parts().get(len).filter(|_| split_evenly) {
            errors.push(error_at_both(
                &part.device,
                format!("there is no layer left for this device: the array has {len}"),
                format!("name at most {len} of them, or make the array longer"),
                len_tokens,
                "the array's length is here",
            ));
        }
    }
}

/// Rejects an empty array: `#[repeat] blocks: [Block; 0]`
///
/// If there are counts, [`counts_add_up`] reports it.
pub fn arrays_hold_layers(model: &Model, errors: &mut Errors) {
    for layer in &model.layers {
        let Some((0, len_tokens)) = layer.literal_len() else { continue };
        if layer.parts().iter().all(|part| part.count.is_none()) {
            errors.push(error(
                len_tokens,
                format!("`{}` has no layers, and a stage needs at least one", layer.ident),
                "make the array longer, or remove it",
            ));
        }
    }
}

/// Rejects `#[stage]` in a struct without devices, because it opens a stage on the current device:
/// `#[stage] decode: Decode`
pub fn stages_need_devices(model: &Model, errors: &mut Errors) {
    if model.has_devices {
        return;
    }
    for stage in model.layers.iter().filter_map(|layer| layer.marks.stage.as_ref()) {
        errors.push(error(
            &stage.word,
            "`#[stage]` opens a stage on the running device, but no layer has a device",
            "give the first layer a device, for example `#[device(\"cuda:0\")]`",
        ));
    }
}

/// Rejects `#[stage]` on the first layer, where there is no stage to end:
/// `#[device("cpu")] #[stage] encode: Encode`
///
/// Without any device, [`stages_need_devices`] reports it.
pub fn the_first_layer_ends_no_stage(model: &Model, errors: &mut Errors) {
    let first = model.layers.first().and_then(|layer| layer.marks.stage.as_ref());
    if let Some(stage) = first.filter(|_| model.has_devices) {
        errors.push(error(
            &stage.word,
            "the first layer opens the first stage in any case: `#[stage]` would leave an empty one before it",
            "remove `#[stage]`",
        ));
    }
}

/// Rejects borrowed data in a model with devices, because layers move to threads that may outlive
/// it:
///
/// `struct Model<'a> { #[device("cpu")] layer: Layer<'a> }`
pub fn layers_on_devices_borrow_nothing(model: &Model, errors: &mut Errors) {
    let Some(device) = model.layers.iter().find_map(Layer::first_device) else { return };
    for param in model.generics.lifetimes() {
        errors.push(error_at_both(
            &param.lifetime,
            "a model with devices cannot borrow: its layers move to other threads",
            "let the layers own what they need",
            device,
            "the first device is here",
        ));
    }
}

/// The strings that are not devices, with the reasons.
fn unreadable(model: &Model) -> impl Iterator<Item = (&LitStr, Unreadable)> {
    let devices = model.layers.iter().flat_map(|layer| {
        let single = layer.marks.device.as_ref().map(|mark| &mark.value);
        single.into_iter().chain(layer.parts().iter().map(|part| &part.device))
    });
    devices.filter_map(|device| Some((device, device::read(&device.value()).err()?)))
}

/// The counts of all devices.
fn counts(model: &Model) -> impl Iterator<Item = &LitInt> {
    model.layers.iter().flat_map(Layer::parts).filter_map(|part| part.count.as_ref())
}

/// The place of all devices of a field, from the first device to the last count.
fn all_parts(layer: &Layer) -> proc_macro2::TokenStream {
    let parts = layer.parts().iter().map(|Part { device, count }| quote!(#device #count));
    quote!(#(#parts)*)
}

#[cfg(test)]
mod tests {
    use crate::pipeline::tests::mistakes;

    #[test]
    fn lengths_that_are_no_literals_are_the_runtimes_to_check() {
        let source =
            "struct M { #[devices(\"cpu\" = 2, \"cpu\" = 3)] a: [A; N], #[devices(\"cpu\", \"cpu\")] b: Vec<B> }";
        assert_eq!(mistakes(source), "");
    }

    #[test]
    fn each_mistake_of_a_split_is_reported_once() {
        let source = "struct M {\n#[devices(\"cpu\" = 0, \"cpu\" = 99999999999999999999999)]\na: [A; 4],\n#[devices(\"cpu\", \"cpu\")]\nb: [B; 0] }";
        assert_eq!(
            mistakes(source),
            "2: this device gets no layers, and a stage needs at least one\n2: this is not a number of layers\n\
             5: `b` has no layers, and a stage needs at least one\n"
        );
    }

    #[test]
    fn counts_are_given_to_all_devices_or_to_none() {
        let source = "struct M {\n#[devices(\"cpu\",\n\"cpu\" = 2)]\na: Vec<A> }";
        assert_eq!(
            mistakes(source),
            "2: this device has no number of layers, but another one has\n  3: this device has a number of layers\n"
        );
    }

    #[test]
    fn a_stage_needs_a_device_but_not_on_its_own_layer() {
        assert_eq!(mistakes("struct M { #[device(\"cpu\")] a: A, #[stage] b: B }"), "");
    }
}
