//! Selects, freezes and unfreezes variables by name or pattern.

use std::collections::BTreeSet;

use pipe_schedule::support::spelling::nearest;
use tch::Tensor;

use crate::error::{Error, Result};
use crate::model::Vars;
use crate::torch::{drop_gradient, is_same};

impl Vars {
    /// Returns the variables that `pattern` selects, sorted by name. They are handles: changing one
    /// of them changes the model.
    ///
    /// A pattern is the name of a variable (`encoder.weight`) or the start of a name up to a `.`
    /// (`encoder` selects `encoder.weight` and `encoder.0.bias`, but not `encoder2.weight`). A `*`
    /// stands for any letters, across segments too: `*.bias` selects every bias of the model, and
    /// `blocks.*.norm` every variable of the norms of all blocks.
    ///
    /// # Errors
    ///
    /// Fails if the pattern selects no variable. The message names the nearest name.
    pub fn select(&self, pattern: &str) -> Result<Vec<(String, Tensor)>> {
        let mut named: Vec<_> = self.var_store().variables().into_iter().collect();
        named.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut selection = selected(pattern, named.iter().map(|(name, _)| name.as_str()))?.into_iter();
        named.retain(|_| selection.next() == Some(true));
        Ok(named)
    }

    /// Freezes the variables that `pattern` [selects](Vars::select), and returns their number. They
    /// get no gradient, and tch's optimizers skip them. Gradients that they have are dropped,
    /// because the next step of an optimizer would still apply them.
    ///
    /// Call it before the first step or between two steps. A stage without trained variables has no
    /// backward and is not recomputed, if no stage before it has trained variables either.
    ///
    /// # Errors
    ///
    /// Fails if the pattern selects no variable.
    pub fn freeze(&self, pattern: &str) -> Result<usize> {
        let selected = self.select(pattern)?;
        for (_, variable) in &selected {
            let _ = variable.f_set_requires_grad(false)?;
            drop_gradient(variable)?;
        }
        Ok(selected.len())
    }

    /// Trains the variables that `pattern` [selects](Vars::select) again, and returns their number.
    /// Variables that are never trained, such as running statistics, do not change and do not
    /// count.
    ///
    /// # Errors
    ///
    /// Fails if the pattern selects no variable that can be trained.
    pub fn unfreeze(&self, pattern: &str) -> Result<usize> {
        let selected = self.select(pattern)?;
        let trainable = self.var_store().trainable_variables();
        let is_trainable = |tensor: &Tensor| trainable.iter().any(|other| is_same(other, tensor));
        let trained: Vec<_> = selected.into_iter().filter(|(_, tensor)| is_trainable(tensor)).collect();
        if trained.is_empty() {
            return Err(Error::Setting(format!("`{pattern}` selects no variable that is made to be trained")));
        }
        for (_, variable) in &trained {
            let _ = variable.f_set_requires_grad(true)?;
        }
        Ok(trained.len())
    }
}

/// Returns for each name whether the pattern selects it.
///
/// # Errors
///
/// Fails if it selects none. The message names the nearest name.
pub(crate) fn selected<'a>(pattern: &str, names: impl Iterator<Item = &'a str> + Clone) -> Result<Vec<bool>> {
    let selection: Vec<_> = names.clone().map(|name| selects(pattern, name)).collect();
    if selection.contains(&true) { Ok(selection) } else { Err(Error::Setting(nothing_selected(pattern, names))) }
}

/// Whether the pattern matches the name, or the start of the name up to a `.`.
fn selects(pattern: &str, name: &str) -> bool {
    let ends = name.match_indices('.').map(|(end, _)| end).chain([name.len()]);
    ends.into_iter().any(|end| matches(pattern, &name[..end]))
}

/// Whether the pattern matches the text, where `*` stands for any letters.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(text) = text.strip_prefix(start) else { return false };
    let (middle, end) = rest.rsplit_once('*').unwrap_or(("", rest));
    let Some(mut text) = text.strip_suffix(end) else { return false };
    // Taking the first match of each part leaves the most text for the parts after it.
    for part in middle.split('*') {
        let Some(at) = text.find(part) else { return false };
        text = &text[at + part.len()..];
    }
    true
}

fn nothing_selected<'a>(pattern: &str, names: impl Iterator<Item = &'a str>) -> String {
    let names: BTreeSet<&str> =
        names.flat_map(|name| name.match_indices('.').map(|(end, _)| &name[..end]).chain([name])).collect();
    let what = format!("no variable is selected by `{pattern}`");
    if names.is_empty() {
        return format!("{what}: there are no variables yet; make the layers first");
    }
    match nearest(pattern, names.iter().copied()) {
        Some(meant) => format!("{what}: did you mean `{meant}`?"),
        None => {
            let children: Vec<_> =
                names.iter().filter(|name| !name.contains('.')).map(|name| format!("`{name}`")).collect();
            format!("{what}: a pattern begins with the name of a layer ({}), or with `*`", children.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_selects_whole_segments_and_what_lies_below() {
        let selected = |pattern: &str| {
            let names = ["blocks.1.norm.bias", "blocks.1.weight", "blocks.10.weight", "embed"];
            names.into_iter().filter(|name| selects(pattern, name)).collect::<Vec<_>>()
        };
        assert_eq!(selected("blocks.1"), ["blocks.1.norm.bias", "blocks.1.weight"]);
        assert_eq!(selected("blocks.1*"), ["blocks.1.norm.bias", "blocks.1.weight", "blocks.10.weight"]);
        assert_eq!(selected("*.weight"), ["blocks.1.weight", "blocks.10.weight"]);
        assert_eq!(selected("blocks.*.norm"), ["blocks.1.norm.bias"]);
        assert_eq!(selected("*b*k*.1*weight"), ["blocks.1.weight", "blocks.10.weight"]);
        assert_eq!(selected("embed"), ["embed"]);
        assert_eq!(selected("*").len(), 4);
        assert!(
            ["", "block", "blocks.", "embed.weight", "1.weight", "blocks.*.weight.*"].map(selected).concat().is_empty()
        );
    }

    #[test]
    fn a_star_needs_letters_of_its_own() {
        // The texts before and after the star must not overlap in the name.
        assert!(!matches("ab*ba", "aba"));
        assert!(matches("ab*ba", "abba"));
        assert!(!matches("a*b*a", "aa"));
    }

    #[test]
    fn what_selects_nothing_is_told_with_the_nearest_name() {
        let message = |pattern: &str| nothing_selected(pattern, ["encoder.0.weight", "head.bias"].into_iter());
        assert_eq!(message("encodr"), "no variable is selected by `encodr`: did you mean `encoder`?");
        assert_eq!(
            message("encoder.weight"),
            "no variable is selected by `encoder.weight`: did you mean `encoder.0.weight`?"
        );
        assert_eq!(
            message("transformer"),
            "no variable is selected by `transformer`: a pattern begins with the name of a layer (`encoder`, `head`), or with `*`"
        );
    }
}
