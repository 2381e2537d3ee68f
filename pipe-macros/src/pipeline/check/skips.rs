//! Rules for skips: every stashed value is popped once, by a later layer.

use crate::pipeline::declaration::{Kept, Marks};
use crate::pipeline::model::{End, Layer, Model, Skip};
use crate::support::errors::{Errors, error, error_at_both};
use crate::support::names::{nearest, plain};

/// A skip is stashed by one layer. `#[stash(a)] one: One, #[stash(a)] two: Two`
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

/// A layer stashes a skip once. `#[stash(a = input, a = output)] one: One`
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

/// A skip is popped by one layer. `#[pop(a)] one: One, #[pop(a)] two: Two`
pub fn popped_once(model: &Model, errors: &mut Errors) {
    for (name, first, end) in model.skips.iter().flat_map(|skip| again(&skip.name, &skip.pops)) {
        if first.layer != end.layer {
            errors.push(error_at_both(
                &end.name,
                format!("`{}` redeclared `{name}` as poppable: it is popped already", layer(model, end)),
                "keep the value twice, under two names, to use it twice",
                &first.name,
                format!("`{name}` is first popped here"),
            ));
        }
    }
}

/// A layer pops a skip once. `#[pop(a, a)] one: One`
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

/// A skip is stashed and popped by different layers. `#[stash(a)] #[pop(a)] one: One`
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

/// A skip is stashed before it is popped: layers run in the order of the fields.
///
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

/// Every stash has a pop. `#[stash(a)] one: One`
///
/// If a pop misspells the name, [`misspelt_pops_suggest_a_name`] reports the mistake.
pub fn popped_if_stashed(model: &Model, errors: &mut Errors) {
    for skip in unpopped(model).filter(|skip| !said_elsewhere(model, "pop", skip)) {
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

/// Every pop has a stash. `#[pop(a)] one: One`
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

/// The error for a misspelt pop suggests the name of an earlier stash.
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

/// Repeated layers have one type, so none of them can return a skip or lend a value.
///
/// `#[repeat] #[stash(a)] blocks: [Block; 4]`
pub fn arrays_keep_only_their_ends(model: &Model, errors: &mut Errors) {
    for layer in model.layers.iter().filter(|layer| layer.is_repeated()) {
        for stash in layer.stashes() {
            let name = plain(&stash.name);
            let what = match stash.kept {
                Kept::Input | Kept::Output => continue,
                Kept::Returned => format!("return `{name}` beside its output"),
                Kept::Tied => format!("lend `{name}`"),
            };
            errors.push(error(
                &stash.name,
                format!("`{}` repeats one layer, so none of them can {what}", layer.ident),
                format!(
                    "write `{name} = input` for what goes into the first one, `{name} = output` for what comes out of the last"
                ),
            ));
        }
    }
}

/// Repeated layers have one type, so none of them can pop a skip.
///
/// `#[repeat] #[pop(a)] blocks: [Block; 4]`
pub fn arrays_pop_nothing(model: &Model, errors: &mut Errors) {
    for layer in model.layers.iter().filter(|layer| layer.is_repeated()) {
        for pop in layer.pops() {
            errors.push(error(
                pop,
                format!("`{}` repeats one layer, so none of them can take `{}`", layer.ident, plain(pop)),
                "pop it in a layer of its own, before or after",
            ));
        }
    }
}

/// Skips with one stash and one pop, in any order.
fn pairs(model: &Model) -> impl Iterator<Item = (&Skip, &End<Kept>, &End<()>)> {
    model.skips.iter().filter_map(|skip| match (skip.stashes.as_slice(), skip.pops.as_slice()) {
        ([stash], [pop]) => Some((skip, stash, pop)),
        _ => None,
    })
}

/// Pairs of a name's first place and each later one.
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
    let unstashed = model.skips.iter().filter(|skip| skip.stashes.is_empty());
    unstashed.filter(|skip| !said_elsewhere(model, "stash", skip)).filter_map(|skip| Some((skip, skip.pops.first()?)))
}

/// Finds the stash that an unmatched pop probably means: similar in name, earlier, and not popped.
fn meant<'a>(model: &'a Model, skip: &Skip, pop: &End<()>) -> Option<(&'a Skip, &'a End<Kept>)> {
    let earlier = unpopped(model).filter(|other| other.stashes.first().is_some_and(|stash| stash.layer < pop.layer));
    let name = nearest(&skip.name, earlier.map(|skip| skip.name.as_str()))?;
    let meant = model.skips.iter().find(|skip| skip.name == name)?;
    Some((meant, meant.stashes.first()?))
}

/// Whether the missing end of a skip may be in an attribute that is itself a mistake: one that
/// could not be read, or one on a plain field.
fn said_elsewhere(model: &Model, word: &str, skip: &Skip) -> bool {
    let unreadable = |marks: &Marks| marks.is_unreadable(word);
    let on_plain_field = |marks: &Marks| match word {
        "stash" => marks.stash.iter().flat_map(|mark| &mark.value).any(|stash| plain(&stash.name) == skip.name),
        _ => marks.pop.iter().flat_map(|mark| &mark.value).any(|name| plain(name) == skip.name),
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
