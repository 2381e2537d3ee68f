//! Rules of devices and stages.

use quote::{ToTokens, quote};
use syn::{Expr, LitStr};

use crate::device::{self, Unreadable};
use crate::errors::{Errors, error, error_at_both};
use crate::model::{Layer, Model, Shape};
use crate::parse::{Marks, Part, whole_number};

/// A device is one that torch can have. `#[device("gpu:0")]`
pub fn devices_are_readable(model: &Model, errors: &mut Errors) {
    for device in model.layers.iter().flat_map(|layer| devices(&layer.marks)) {
        let text = device.value();
        let (wrong, help) = match device::read(&text) {
            Ok(()) => continue,
            Err(Unreadable::NoIndex(meant)) => {
                (format!("`{text}` does not say which one"), format!("name the index: `{meant}`"))
            }
            Err(Unreadable::Meant(meant)) => (format!("`{text}` is not a device"), format!("did you mean `{meant}`?")),
            Err(Unreadable::Unknown) => {
                (format!("`{text}` is not a device"), "devices are `cpu`, `cuda:N`, `mps` and `xpu:N`".to_owned())
            }
        };
        errors.push(error(device, wrong, help));
    }
}

/// Once there are devices, the first layer has one: later ones go on where it runs.
///
/// `encode: Encode, #[device("cuda:0")] decode: Decode`
pub fn the_first_layer_has_one(model: &Model, errors: &mut Errors) {
    let Some(first) = model.layers.first().filter(|first| first.first_device().is_none()) else { return };
    let Some((placed, device)) = model.layers.iter().find_map(|layer| Some((layer, layer.first_device()?))) else {
        return;
    };
    errors.push(error_at_both(
        &first.ident,
        format!("`{}` is the first layer and has no device, but `{}` has one", first.ident, placed.ident),
        format!("say where the first layer runs, for example `#[device({})]`", device.to_token_stream()),
        device,
        "the first device is here",
    ));
}

/// A plain field runs nowhere. `#[not_a_layer] #[device("cpu")] config: Config`
pub fn plain_fields_have_none(model: &Model, errors: &mut Errors) {
    for field in &model.plain_fields {
        let Marks { device, devices, stage, not_a_layer: Some(not_a_layer), .. } = &field.marks else { continue };
        let words = [
            device.as_ref().map(|mark| &mark.word),
            devices.as_ref().map(|mark| &mark.word),
            stage.as_ref().map(|mark| &mark.word),
        ];
        for word in words.into_iter().flatten() {
            errors.push(error_at_both(
                word,
                format!("`{}` is not a layer, so it runs on no device", field.ident),
                format!("move `#[{word}]` to the layer that is meant, or remove `#[not_a_layer]`"),
                &not_a_layer.word,
                "it is said here that the field is not a layer",
            ));
        }
    }
}

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

/// One layer runs on one device. `#[devices("cuda:0", "cuda:1")] head: Linear`
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

/// A device is given one layer or more. `#[devices("cuda:0" = 0, "cuda:1" = 4)]`
pub fn counts_are_positive(model: &Model, errors: &mut Errors) {
    for count in model.layers.iter().flat_map(Layer::parts).filter_map(|part| part.count.as_ref()) {
        match count.base10_parse::<usize>() {
            Ok(0) => errors.push(error(
                count,
                "this device gets no layers, and a stage needs at least one",
                "remove the device, or give it a layer",
            )),
            Ok(_) => {}
            Err(_) => errors.push(error(count, "this is no number of layers", "write a number such as `4`")),
        }
    }
}

/// The counts are those of all layers.
///
/// `#[devices("cuda:0" = 2, "cuda:1" = 3)] blocks: [Block; 4]`
///
/// Where the length is not a literal, the runtime checks it when it builds the pipe.
pub fn counts_add_up(model: &Model, errors: &mut Errors) {
    for layer in &model.layers {
        let Some((len, len_tokens)) = literal_len(layer) else { continue };
        let counts: Option<Vec<usize>> = layer.parts().iter().map(Part::count).collect();
        let Some(counts) = counts.filter(|counts| !counts.is_empty()) else { continue };
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

/// No stage is empty: an even split gives every device a layer.
///
/// `#[devices("cuda:0", "cuda:1", "cuda:2")] blocks: [Block; 2]`
///
/// Counts of zero are [`counts_are_positive`]'s.
pub fn no_stage_is_empty(model: &Model, errors: &mut Errors) {
    for layer in &model.layers {
        let Some((len, len_tokens)) = literal_len(layer) else { continue };
        let split_evenly = layer.parts().iter().all(|part| part.count.is_none());
        match layer.parts().get(len) {
            Some(part) if split_evenly => errors.push(error_at_both(
                &part.device,
                format!("there is no layer left for this device: the array has {len}"),
                format!("name at most {len} of them, or make the array longer"),
                len_tokens,
                "the array's length is here",
            )),
            None if len == 0 => errors.push(error(
                len_tokens,
                format!("`{}` has no layers, and a stage needs at least one", layer.ident),
                "make the array longer, or remove it",
            )),
            _ => {}
        }
    }
}

/// `#[stage]` opens a stage on the running device: there has to be one. `#[stage] decode: Decode`
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

/// Before the first layer there is no stage to end: `#[device("cpu")] #[stage] encode: Encode`
///
/// Without any device, [`stages_need_devices`] speaks.
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

/// Layers move to threads that may outlive what they borrow.
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

fn devices(marks: &Marks) -> impl Iterator<Item = &LitStr> {
    let single = marks.device.as_ref().map(|mark| &mark.value);
    let spread = marks.devices.iter().flat_map(|mark| &mark.value).map(|part| &part.device);
    single.into_iter().chain(spread)
}

/// The length of an array if it is written as a number, and where.
fn literal_len(layer: &Layer) -> Option<(usize, &Expr)> {
    match &layer.shape {
        Shape::Array { len, .. } => Some((whole_number(len)?, len)),
        _ => None,
    }
}

/// From the first device to the last count.
fn all_parts(layer: &Layer) -> proc_macro2::TokenStream {
    let parts = layer.parts().iter().map(|Part { device, count }| quote!(#device #count));
    quote!(#(#parts)*)
}

#[cfg(test)]
mod tests {
    use crate::tests::mistakes;

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
            "2: this device gets no layers, and a stage needs at least one\n2: this is no number of layers\n\
             4: there is no layer left for this device: the array has 0\n  5: the array's length is here\n"
        );
    }

    #[test]
    fn a_stage_needs_a_device_but_not_on_its_own_layer() {
        assert_eq!(mistakes("struct M { #[device(\"cpu\")] a: A, #[stage] b: B }"), "");
    }
}
