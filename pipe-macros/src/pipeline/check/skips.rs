//! Rules for skips: every stashed value is popped exactly once, by a later layer.

use pipe_schedule::support::spelling::nearest;

use crate::pipeline::declaration::{Kept, Marks, Shape};
use crate::pipeline::model::{End, Layer, Model, Skip};
use crate::support::errors::{Errors, error, error_at_both};
use crate::support::names::plain;

/// Rejects a name that two layers stash: `#[stash(a)] one: One, #[stash(a)] two: Two`
pub fn stashed_once(model: &Model, errors: &mut Errors) {
    for (name, first, end) in model.skips.iter().flat_map(|skip| again(&skip.name, &skip.stashes)) {
        if first.layer != end.layer {
            errors.push(error_at_both(
                &end.name,
                format!("`{}` redeclared `{name}` as stashable: one name keeps one value", layer(model, end)),
                "give this one a name of its own",
                &first.name,
                format!("`{name}` is first stashed here"),
            ));
        }
    }
}

/// Rejects a name that one layer stashes twice: `#[stash(a = input, a = output)] one: One`
pub fn stashed_once_by_a_layer(model: &Model, errors: &mut Errors) {
    for (name, first, end) in model.skips.iter().flat_map(|skip| again(&skip.name, &skip.stashes)) {
        if first.layer == end.layer {
            errors.push(error_at_both(
                &end.name,
                format!("`{}` stashes two values as `{name}`", layer(model, end)),
                "give each a name of its own",
                &first.name,
                format!("`{name}` is first stashed here"),
            ));
        }
    }
}

/// Rejects a name that two layers pop, because a pop takes the value:
/// `#[pop(a)] one: One, #[pop(a)] two: Two`
pub fn popped_once(model: &Model, errors: &mut Errors) {
    for (name, first, end) in model.skips.iter().flat_map(|skip| again(&skip.name, &skip.pops)) {
        if first.layer != end.layer {
            errors.push(error_at_both(
                &end.name,
                format!("`{}` redeclared `{name}` as poppable: it is popped already", layer(model, end)),
                format!("lend it, and read it in each of them: `#[lend({name} = ..)]` instead of the stash, and `#[read({name})]`"),
                &first.name,
                format!("`{name}` is first popped here"),
            ));
        }
    }
}

/// Rejects a name that one layer pops twice: `#[pop(a, a)] one: One`
pub fn popped_once_by_a_layer(model: &Model, errors: &mut Errors) {
    for (name, first, end) in model.skips.iter().flat_map(|skip| again(&skip.name, &skip.pops)) {
        if first.layer == end.layer {
            errors.push(error_at_both(
                &end.name,
                format!("`{}` pops `{name}` twice", layer(model, end)),
                format!("pop it once: the layer takes `(input, {name})`"),
                &first.name,
                format!("`{name}` is first popped here"),
            ));
        }
    }
}

/// Rejects a skip that one layer both stashes and pops: `#[stash(a)] #[pop(a)] one: One`
pub fn not_stashed_and_popped_by_one_layer(model: &Model, errors: &mut Errors) {
    for (skip, stash, pop) in pairs(model).filter(|(_, stash, pop)| stash.layer == pop.layer) {
        errors.push(error_at_both(
            &pop.name,
            format!("`{}` declared `{}` both as stashable and as poppable", layer(model, pop), skip.name),
            "stash in one layer and pop in a later one",
            &stash.name,
            format!("`{}` is stashed here", skip.name),
        ));
    }
}

/// Rejects a pop before its stash, because layers run in the order of the fields:
/// `#[pop(a)] one: One, #[stash(a)] two: Two`
pub fn stashed_before_popped(model: &Model, errors: &mut Errors) {
    for (skip, stash, pop) in pairs(model).filter(|(_, stash, pop)| stash.layer > pop.layer) {
        let (stashing, popping) = (layer(model, stash), layer(model, pop));
        errors.push(error_at_both(
            &pop.name,
            format!("`{popping}` declared `{}` as poppable before `{stashing}` has stashed it", skip.name),
            "layers run in the order of the fields: stash above, pop below",
            &stash.name,
            format!("`{}` is stashed here", skip.name),
        ));
    }
}

/// Rejects a stash that no layer pops: `#[stash(a)] one: One`
///
/// If a pop seems to misspell the name, [`misspelt_pops_suggest_a_name`] reports it.
pub fn popped_if_stashed(model: &Model, errors: &mut Errors) {
    let is_read = |skip: &&Skip| model.lent.iter().any(|lent| lent.name == skip.name && !lent.reads.is_empty());
    for skip in unpopped(model).filter(|skip| !said_elsewhere(model, "pop", skip) && !is_read(skip)) {
        let is_misspelt = unstashed(model)
            .any(|(other, pop)| meant(model, other, pop).is_some_and(|(meant, _)| meant.name == skip.name));
        let Some(stash) = skip.stashes.first().filter(|_| !is_misspelt) else { continue };
        let name = &skip.name;
        errors.push(error(
            &stash.name,
            format!("no layer declared `{name}` as poppable, but it is stashed"),
            format!("take it in a later layer with `#[pop({name})]`, or do not stash it"),
        ));
    }
}

/// Rejects a pop of a name that no layer stashes: `#[pop(a)] one: One`
pub fn stashed_if_popped(model: &Model, errors: &mut Errors) {
    for (skip, pop) in unstashed(model).filter(|(skip, pop)| meant(model, skip, pop).is_none()) {
        let name = &skip.name;
        errors.push(error(
            &pop.name,
            format!("`{}` declared `{name}` as poppable but it was not stashed", layer(model, pop)),
            format!("keep it in an earlier layer, for example with `#[stash({name} = output)]`"),
        ));
    }
}

/// Rejects a pop of an unknown name that is close to the name of an earlier stash that no layer
/// pops, and suggests that name:
///
/// `#[stash(level1)] one: One, #[pop(levle1)] two: Two`
pub fn misspelt_pops_suggest_a_name(model: &Model, errors: &mut Errors) {
    for (skip, pop) in unstashed(model) {
        let Some((meant, stash)) = meant(model, skip, pop) else { continue };
        errors.push(error_at_both(
            &pop.name,
            format!("`{}` declared `{}` as poppable but it was not stashed", layer(model, pop), skip.name),
            format!("did you mean `{}`?", meant.name),
            &stash.name,
            format!("`{}` is stashed here and never popped", meant.name),
        ));
    }
}

/// Rejects stashes other than `input` and `output` on repeated layers, except one of each of them:
/// they have one type, so no single one can return a value:
///
/// `#[repeat] #[stash(a)] blocks: [Block; 4]`
pub fn arrays_keep_only_their_ends(model: &Model, errors: &mut Errors) {
    for layer in model.layers.iter().filter(|layer| layer.is_repeated()) {
        let stashes = layer.stashes().iter().filter(|stash| !stash.each);
        for stash in stashes.filter(|stash| stash.kept == Kept::Returned) {
            let name = plain(&stash.name);
            errors.push(error(
                &stash.name,
                format!("`{}` repeats one layer, so none of them can return `{name}` beside its output", layer.ident),
                format!(
                    "write `{name} = input` for what goes into the first one, `{name} = output` for what comes out of the last, `{name}[..]` for a value of each"
                ),
            ));
        }
    }
}

/// Rejects pops on repeated layers, except one of each of them: they have one type, so no single
/// one can take another value: `#[repeat] #[pop(a)] blocks: [Block; 4]`
pub fn arrays_pop_nothing(model: &Model, errors: &mut Errors) {
    for layer in model.layers.iter().filter(|layer| layer.is_repeated()) {
        for pop in layer.pops().iter().filter(|pop| !pop.each) {
            let name = plain(&pop.name);
            errors.push(error(
                &pop.name,
                format!("`{}` repeats one layer, so none of them can take `{name}`", layer.ident),
                format!(
                    "pop it in a layer of its own, before or after; `{name}[..]` is for what each layer of an array stashes"
                ),
            ));
        }
    }
}

/// Rejects a skip of each layer on a field that holds one: `#[stash(a[..])] one: One`
pub fn only_arrays_have_a_skip_each(model: &Model, errors: &mut Errors) {
    for layer in model.layers.iter().filter(|layer| !layer.is_repeated()) {
        let stashed = layer.stashes_of_each().map(|stash| &stash.name);
        for name in stashed.chain(layer.pops_of_each()) {
            errors.push(error(
                name,
                format!("`{}` is a single layer, so `{}` is one value", layer.ident, plain(name)),
                "remove `[..]`, or write the type as `[Layer; N]` or `Vec<Layer>`",
            ));
        }
    }
}

/// Rejects a skip of which one end is of each layer of an array, and the other is not:
/// `#[repeat] #[stash(a[..])] down: [Down; 4], #[pop(a)] up: Up`
pub fn both_ends_have_a_skip_each(model: &Model, errors: &mut Errors) {
    let is_array = |layer: usize| model.layers[layer].is_repeated();
    let pairs = pairs(model).filter(|(_, stash, pop)| is_array(stash.layer) || is_array(pop.layer));
    for (skip, stash, pop) in pairs.filter(|(_, stash, pop)| stash.each != pop.each) {
        let name = &skip.name;
        let (wrong, help) = match stash.each {
            true if is_array(pop.layer) => continue,
            true => (
                format!(
                    "each layer of `{}` stashes `{name}`, and `{}` pops one",
                    layer(model, stash),
                    layer(model, pop)
                ),
                format!("pop them in an array of as many layers: `#[pop({name}[..])]`"),
            ),
            false if is_array(stash.layer) && stash.what == Kept::Returned => continue,
            false => (
                format!(
                    "each layer of `{}` pops `{name}`, and `{}` stashes one",
                    layer(model, pop),
                    layer(model, stash)
                ),
                format!(
                    "lend it, and read it in each: `#[lend({name} = ..)]` instead of the stash, and `#[read({name})]`; or stash as many: `#[stash({name}[..])]`"
                ),
            ),
        };
        errors.push(error_at_both(&pop.name, wrong, help, &stash.name, format!("`{name}` is stashed here")));
    }
}

/// Rejects arrays of different lengths of which each layer has a skip:
/// `#[repeat] #[stash(a[..])] down: [Down; 4], #[repeat] #[pop(a[..])] up: [Up; 3]`
///
/// If a length is not a literal, generated code makes rustc compare them. The runtime compares the
/// lengths of `Vec`s when it builds the pipeline.
pub fn arrays_of_a_skip_each_are_as_long(model: &Model, errors: &mut Errors) {
    for (skip, stash, pop) in pairs(model).filter(|(_, stash, pop)| stash.each && pop.each) {
        let (stashing, popping) = (&model.layers[stash.layer], &model.layers[pop.layer]);
        let (Some((stashed, at)), Some((popped, tokens))) = (stashing.literal_len(), popping.literal_len()) else {
            continue;
        };
        if stashed != popped {
            errors.push(error_at_both(
                tokens,
                format!("{popped} layers of `{}` pop `{}`, and {stashed} stash one", popping.ident, skip.name),
                "make the arrays as long: the first layer that pops takes the skip of the last one that stashes",
                at,
                "the other length is here",
            ));
        }
    }
}

/// Rejects pops, and stashes other than `input` and `output`, on optional layers: an absent layer
/// is the identity, which takes and returns no skip: `#[pop(a)] concat: Option<Concat>`
pub fn optional_layers_have_no_skips(model: &Model, errors: &mut Errors) {
    for layer in model.layers.iter().filter(|layer| matches!(layer.shape, Shape::Optional { .. })) {
        let nothing = format!("`{}` may be absent, and then nothing", layer.ident);
        for pop in layer.pops() {
            errors.push(error(
                &pop.name,
                format!("{nothing} takes `{}`", plain(&pop.name)),
                "pop it in a layer of its own, or in one that is always there",
            ));
        }
        for stash in layer.stashes().iter().filter(|stash| stash.kept == Kept::Returned) {
            let name = plain(&stash.name);
            errors.push(error(
                &stash.name,
                format!("{nothing} returns `{name}`"),
                format!("write `{name} = input` for what goes into it, `{name} = output` for what comes out of it"),
            ));
        }
    }
}

/// Skips with exactly one stash and one pop, whose order is still to be checked.
fn pairs(model: &Model) -> impl Iterator<Item = (&Skip, &End<Kept>, &End<()>)> {
    model.skips.iter().filter_map(|skip| match (skip.stashes.as_slice(), skip.pops.as_slice()) {
        ([stash], [pop]) => Some((skip, stash, pop)),
        _ => None,
    })
}

/// Pairs the first occurrence of a name with each later one.
fn again<'a, What>(
    name: &'a str,
    ends: &'a [End<What>],
) -> impl Iterator<Item = (&'a str, &'a End<What>, &'a End<What>)> {
    let first = ends.first();
    ends.iter().skip(1).filter_map(move |end| Some((name, first?, end)))
}

fn unpopped(model: &Model) -> impl Iterator<Item = &Skip> {
    model.skips.iter().filter(|skip| skip.pops.is_empty())
}

fn unstashed(model: &Model) -> impl Iterator<Item = (&Skip, &End<()>)> {
    let is_lent = |skip: &&Skip| model.lent.iter().any(|lent| lent.name == skip.name && !lent.lends.is_empty());
    let unstashed = model.skips.iter().filter(move |skip| skip.stashes.is_empty() && !is_lent(skip));
    unstashed.filter(|skip| !said_elsewhere(model, "stash", skip)).filter_map(|skip| Some((skip, skip.pops.first()?)))
}

/// The stash that a pop without a stash probably means: one in an earlier layer, with a similar
/// name, that no layer pops.
fn meant<'a>(model: &'a Model, skip: &Skip, pop: &End<()>) -> Option<(&'a Skip, &'a End<Kept>)> {
    let earlier = unpopped(model).filter(|other| other.stashes.first().is_some_and(|stash| stash.layer < pop.layer));
    let name = nearest(&skip.name, earlier.map(|skip| skip.name.as_str()))?;
    let meant = model.skips.iter().find(|skip| skip.name == name)?;
    Some((meant, meant.stashes.first()?))
}

/// Whether the missing end of a skip may be in an attribute that is reported as an error anyway,
/// because it cannot be read or is on a plain field.
fn said_elsewhere(model: &Model, word: &str, skip: &Skip) -> bool {
    let unreadable = |marks: &Marks| marks.is_unreadable(word);
    let on_plain_field = |marks: &Marks| match word {
        "stash" => marks.stash.iter().flat_map(|mark| &mark.value).any(|stash| plain(&stash.name) == skip.name),
        _ => marks.pop.iter().flat_map(|mark| &mark.value).any(|pop| plain(&pop.name) == skip.name),
    };
    let plain_fields = || model.plain_fields.iter().map(|field| &field.marks);
    model.layers.iter().map(|layer| &layer.marks).chain(plain_fields()).any(unreadable)
        || plain_fields().any(on_plain_field)
}

fn layer<What>(model: &Model, end: &End<What>) -> String {
    let layer: &Layer = &model.layers[end.layer];
    plain(&layer.ident)
}

#[cfg(test)]
mod tests {
    use crate::pipeline::tests::mistakes;

    #[test]
    fn names_that_chain_through_layers_are_right() {
        let source = "struct M { #[stash(a)] one: One, #[pop(a)] #[stash(b)] two: Two, #[pop(b)] three: Three }";
        assert_eq!(mistakes(source), "");
    }

    #[test]
    fn a_misspelt_pop_is_one_mistake() {
        let source = "struct M {\n#[stash(level1)] one: One,\n#[pop(level)] two: Two }";
        assert_eq!(
            mistakes(source),
            "3: `two` declared `level` as poppable but it was not stashed\n  2: `level1` is stashed here and never popped\n"
        );
    }

    #[test]
    fn a_stash_below_is_not_what_a_pop_means() {
        let source = "struct M {\n#[pop(level)] one: One,\n#[stash(level1)] two: Two }";
        assert_eq!(
            mistakes(source),
            "2: `one` declared `level` as poppable but it was not stashed\n3: no layer declared `level1` as poppable, but it is stashed\n"
        );
    }

    #[test]
    fn a_pair_that_is_there_twice_is_two_mistakes() {
        let source =
            "struct M {\n#[stash(a)] one: One,\n#[pop(a)] two: Two,\n#[stash(a)] three: Three,\n#[pop(a)] four: Four }";
        assert_eq!(
            mistakes(source),
            "4: `three` redeclared `a` as stashable: one name keeps one value\n  2: `a` is first stashed here\n\
             5: `four` redeclared `a` as poppable: it is popped already\n  3: `a` is first popped here\n"
        );
    }
}
