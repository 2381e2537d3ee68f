//! Rules for lent values: one layer lends each, and later layers read it, any number of them.

use pipe_schedule::support::spelling::nearest;

use crate::pipeline::declaration::{Kept, Marks, Shape};
use crate::pipeline::model::{End, Lent, Model, Read, Skip};
use crate::support::errors::{Errors, error, error_at_both};
use crate::support::names::plain;

/// Rejects a name that is lent twice: `#[lend(a = output)] one: One, #[lend(a = output)] two: Two`
pub fn lent_once(model: &Model, errors: &mut Errors) {
    for lent in &model.lent {
        let Some((first, others)) = lent.lends.split_first() else { continue };
        for end in others {
            errors.push(error_at_both(
                &end.name,
                format!("`{}` lends `{}`, which is lent already: one name has one value", layer(model, end), lent.name),
                "give this one a name of its own",
                &first.name,
                format!("`{}` is first lent here", lent.name),
            ));
        }
    }
}

/// Rejects a lent value that no layer reads: `#[lend(a = output)] one: One`
///
/// If a read seems to misspell the name, [`misspelt_reads_suggest_a_name`] reports it.
pub fn read_if_lent(model: &Model, errors: &mut Errors) {
    for lent in unread(model).filter(|_| !is_unreadable(model, "read")) {
        let is_misspelt = unlent(model).any(|(other, read)| meant(model, other, read) == Some(&lent.name));
        let Some(lend) = lent.lends.first().filter(|_| !is_misspelt) else { continue };
        let name = &lent.name;
        errors.push(error(
            &lend.name,
            format!("no layer reads `{name}`, but it is lent"),
            format!("take it in later layers with `#[read({name})]`, or do not lend it"),
        ));
    }
}

/// Rejects a read of a name that no layer lends: `#[read(a)] one: One`
pub fn lent_if_read(model: &Model, errors: &mut Errors) {
    for (lent, read) in unlent(model).filter(|(lent, read)| meant(model, lent, read).is_none()) {
        let name = &lent.name;
        let help = match model.has_devices {
            true => format!("lend it in an earlier layer, for example with `#[lend({name} = output)]`"),
            false => format!(
                "lend it in an earlier layer, for example with `#[lend({name} = output)]`, or declare that it comes from outside of this block: `#[pipeline(read({name}: Tensor))]`"
            ),
        };
        errors.push(error(&read.name, format!("`{}` reads `{name}`, but no layer lends it", layer(model, read)), help));
    }
}

/// Rejects a read of an unknown name that is close to that of a value which is lent before:
///
/// `#[lend(memory = output)] one: One, #[read(memry)] two: Two`
pub fn misspelt_reads_suggest_a_name(model: &Model, errors: &mut Errors) {
    for (lent, read) in unlent(model) {
        let Some(meant) = meant(model, lent, read) else { continue };
        errors.push(error(
            &read.name,
            format!("`{}` reads `{}`, but no layer lends it", layer(model, read), lent.name),
            format!("did you mean `{meant}`?"),
        ));
    }
}

/// Rejects a read before the value is lent, because layers run in the order of the fields:
/// `#[read(a)] one: One, #[lend(a = output)] two: Two`
pub fn lent_before_read(model: &Model, errors: &mut Errors) {
    for (lent, lend) in model.lent.iter().filter_map(|lent| Some((lent, lent.lends.first()?))) {
        for read in lent.reads.iter().filter(|read| read.layer < lend.layer) {
            errors.push(error_at_both(
                &read.name,
                format!("`{}` reads `{}` before `{}` lends it", layer(model, read), lent.name, layer(model, lend)),
                "layers run in the order of the fields: lend above, read below",
                &lend.name,
                format!("`{}` is lent here", lent.name),
            ));
        }
    }
}

/// Rejects a layer that reads what it lends itself: `#[lend(a = input)] #[read(a)] one: One`
pub fn not_read_by_the_lender(model: &Model, errors: &mut Errors) {
    for lent in &model.lent {
        for (lend, read) in
            lent.lends.iter().filter_map(|lend| Some((lend, lent.reads.iter().find(|read| read.layer == lend.layer)?)))
        {
            errors.push(error_at_both(
                &read.name,
                format!("`{}` reads `{}`, which it lends itself", layer(model, read), lent.name),
                "lend in one layer and read in later ones",
                &lend.name,
                format!("`{}` is lent here", lent.name),
            ));
        }
    }
}

/// Rejects a name that one layer reads twice: `#[read(a, a)] one: One`
pub fn read_once_by_a_layer(model: &Model, errors: &mut Errors) {
    for lent in &model.lent {
        for pair in lent.reads.windows(2).filter(|pair| pair[0].layer == pair[1].layer) {
            errors.push(error_at_both(
                &pair[1].name,
                format!("`{}` reads `{}` twice", layer(model, &pair[1]), lent.name),
                format!("read it once: the layer takes `(input, {})`", lent.name),
                &pair[0].name,
                format!("`{}` is first read here", lent.name),
            ));
        }
    }
}

/// Rejects a name that is both a skip and a lent value:
/// `#[stash(a = output)] #[lend(a = output)] one: One`
pub fn names_are_stashed_or_lent(model: &Model, errors: &mut Errors) {
    for (lent, skip) in pairs(model) {
        let (Some(lend), Some(stash)) = (lent.lends.first(), skip.stashes.first()) else { continue };
        errors.push(error_at_both(
            &lend.name,
            format!("`{}` is both lent and stashed", lent.name),
            "lend what several layers read, stash what one layer takes: under two names",
            &stash.name,
            format!("`{}` is stashed here", lent.name),
        ));
    }
}

/// Rejects a pop of what is lent, and a read of what is stashed:
/// `#[lend(a = output)] one: One, #[read(a)] two: Two, #[pop(a)] three: Three`
pub fn names_are_popped_or_read(model: &Model, errors: &mut Errors) {
    for (lent, skip) in pairs(model) {
        let name = &lent.name;
        if let (Some(lend), [], Some(pop)) = (lent.lends.first(), skip.stashes.as_slice(), skip.pops.first()) {
            errors.push(error_at_both(
                &pop.name,
                format!("`{}` pops `{name}`, which is lent", layer(model, pop)),
                format!("write `#[read({name})]`: any number of layers read what is lent"),
                &lend.name,
                format!("`{name}` is lent here"),
            ));
        }
        if let ([], Some(stash), Some(read)) = (lent.lends.as_slice(), skip.stashes.first(), lent.reads.first()) {
            errors.push(error_at_both(
                &read.name,
                format!("`{}` reads `{name}`, which is stashed", layer(model, read)),
                format!(
                    "write `#[pop({name})]`, or `#[lend({name} = ..)]` instead of the stash if several layers read it"
                ),
                &stash.name,
                format!("`{name}` is stashed here"),
            ));
        }
    }
}

/// Rejects `tied` on repeated layers, none of which is the one whose weight could be meant:
/// `#[repeat] #[lend(a = tied)] blocks: [Linear; 4]`
pub fn arrays_lend_only_their_ends(model: &Model, errors: &mut Errors) {
    for layer in model.layers.iter().filter(|layer| layer.is_repeated()) {
        for lend in layer.lends().iter().filter(|lend| lend.kept == Kept::Tied) {
            let name = plain(&lend.name);
            errors.push(error(
                &lend.name,
                format!("`{}` repeats one layer, so none of them can lend `{name}`", layer.ident),
                format!(
                    "write `{name} = input` for what goes into the first one, `{name} = output` for what comes out of the last"
                ),
            ));
        }
    }
}

/// Rejects reads, and `tied`, on optional layers: an absent layer is the identity:
/// `#[read(a)] attend: Option<Attend>`
pub fn optional_layers_read_nothing(model: &Model, errors: &mut Errors) {
    for layer in model.layers.iter().filter(|layer| matches!(layer.shape, Shape::Optional { .. })) {
        let nothing = format!("`{}` may be absent, and then nothing", layer.ident);
        for Read { name, .. } in &layer.reads {
            errors.push(error(
                name,
                format!("{nothing} reads `{}`", plain(name)),
                "read it in a layer of its own, or in one that is always there",
            ));
        }
        for lend in layer.lends().iter().filter(|lend| lend.kept == Kept::Tied) {
            let name = plain(&lend.name);
            errors.push(error(
                &lend.name,
                format!("{nothing} lends `{name}`"),
                format!("write `{name} = input` for what goes into it, `{name} = output` for what comes out of it"),
            ));
        }
    }
}

/// Rejects a struct with devices that reads from outside, because there is nothing outside of it:
/// `#[pipeline(read(a: Tensor))] struct Model { #[device("cpu")] one: One }`
pub fn only_blocks_read_from_outside(model: &Model, errors: &mut Errors) {
    if let Some(mark) = model.settings.reads.as_ref().filter(|_| model.has_devices) {
        errors.push(error(
            &mark.word,
            format!("`{}` has devices, so it is part of no other model that could lend it a value", model.ident),
            "make it a part of `input = ..`, and lend it from there: `#[lend(mask = input.1)]`",
        ));
    }
}

/// Rejects a value that a block declares to read from outside and that none of its layers reads:
/// `#[pipeline(read(a: Tensor))] struct Block { one: One }`
pub fn declared_values_are_read(model: &Model, errors: &mut Errors) {
    for outer in model.settings.outer_values() {
        let name = plain(&outer.name);
        let is_read = model.lent.iter().any(|lent| lent.name == name && !lent.reads.is_empty());
        if !is_read && !is_unreadable(model, "read") {
            errors.push(error(
                &outer.name,
                format!("no layer of `{}` reads `{name}`", model.ident),
                format!("take it in a layer with `#[read({name})]`, or do not declare it"),
            ));
        }
    }
}

/// Rejects a value that a block declares twice, or declares and lends itself:
/// `#[pipeline(read(a: Tensor, a: Tensor))] struct Block { #[read(a)] one: One }`
pub fn declared_values_are_not_lent(model: &Model, errors: &mut Errors) {
    let outer = model.settings.outer_values();
    for (number, value) in outer.iter().enumerate() {
        let name = plain(&value.name);
        if let Some(first) = outer[..number].iter().find(|first| plain(&first.name) == name) {
            errors.push(error_at_both(
                &value.name,
                format!("`{name}` is declared twice"),
                "declare it once",
                &first.name,
                format!("`{name}` is first declared here"),
            ));
        } else if let Some(lend) = model.lent.iter().find(|lent| lent.name == name).and_then(|lent| lent.lends.first())
        {
            errors.push(error_at_both(
                &lend.name,
                format!("`{}` lends `{name}`, which comes from outside of the block", layer(model, lend)),
                "give this one a name of its own",
                &value.name,
                format!("`{name}` is declared here"),
            ));
        }
    }
}

fn is_outer(model: &Model, name: &str) -> bool {
    model.settings.outer_values().iter().any(|value| plain(&value.name) == name)
}

fn unread(model: &Model) -> impl Iterator<Item = &Lent> {
    let unread = model.lent.iter().filter(|lent| lent.reads.is_empty());
    // A pop of it is reported as such.
    unread.filter(|lent| !model.skips.iter().any(|skip| skip.name == lent.name && !skip.pops.is_empty()))
}

/// The first read of each value that nobody lends.
fn unlent(model: &Model) -> impl Iterator<Item = (&Lent, &End<()>)> {
    let unlent = model.lent.iter().filter(|lent| lent.lends.is_empty() && !is_outer(model, &lent.name));
    let unlent = unlent.filter(|_| !is_unreadable(model, "lend") && !model.settings.is_unreadable("read"));
    // A stash of it is reported as such.
    let unlent = unlent.filter(|lent| !model.skips.iter().any(|skip| skip.name == lent.name));
    unlent.filter_map(|lent| Some((lent, lent.reads.first()?)))
}

/// The name that a read probably means: one that is lent before, or declared.
fn meant<'m>(model: &'m Model, lent: &Lent, read: &End<()>) -> Option<&'m String> {
    let lends_before = |other: &&Lent| other.lends.first().is_some_and(|lend| lend.layer < read.layer);
    let known = model.lent.iter().filter(|other| lends_before(other) || is_outer(model, &other.name));
    let name = nearest(&lent.name, known.map(|other| other.name.as_str()))?;
    model.lent.iter().map(|other| &other.name).find(|other| *other == name)
}

/// Lent values and skips of one name.
fn pairs(model: &Model) -> impl Iterator<Item = (&Lent, &Skip)> {
    let skip = |lent: &Lent| model.skips.iter().find(|skip| skip.name == lent.name);
    model.lent.iter().filter_map(move |lent| Some((lent, skip(lent)?)))
}

fn is_unreadable(model: &Model, word: &str) -> bool {
    let unreadable = |marks: &Marks| marks.is_unreadable(word);
    let plain_fields = model.plain_fields.iter().map(|field| &field.marks);
    model.layers.iter().map(|layer| &layer.marks).chain(plain_fields).any(unreadable)
}

fn layer<What>(model: &Model, end: &End<What>) -> String {
    plain(&model.layers[end.layer].ident)
}
