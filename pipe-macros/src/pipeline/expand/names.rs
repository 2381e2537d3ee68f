//! Generates the names of values for editors: a function where a value is made, and its name where
//! the value is used. So an editor can go from one to the other, list all places, rename a value in
//! all of them, and say where it goes. A compiler gets none of this, because it would take time for
//! what nothing else uses.

use std::env;
use std::path::Path;

use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, quote_spanned};

use super::here;
use crate::pipeline::declaration::Outer;
use crate::pipeline::model::{End, Lent, Model, Skip};
use crate::pipeline::plan::{Plan, Stage};
use crate::support::names::plain;

/// Whether this program compiles. Any other one that runs macros reads them for an editor.
fn is_compiler(program: &Path) -> bool {
    const COMPILERS: [&str; 4] = ["rustc", "rustdoc", "clippy-driver", "miri"];
    program.file_stem().is_some_and(|name| COMPILERS.iter().any(|compiler| name == *compiler))
}

/// One value: the name where it is made, where it goes, and the names where it is used.
struct Value<'m> {
    name: &'m Ident,
    says: String,
    used: Vec<&'m Ident>,
}

/// The names, unless a compiler expands the macro.
pub fn values(model: &Model, plan: &Plan) -> TokenStream {
    // `cfg(rust_analyzer)` would be a warning of rustc, which a user may forbid to allow.
    if is_compiler(&env::current_exe().unwrap_or_default()) {
        return TokenStream::new();
    }
    let layers = Layers { model, plan };
    let skips = model.skips.iter().filter_map(|skip| layers.skip(skip)).collect();
    let lent = model.lent.iter().filter_map(|lent| layers.lent(lent)).collect();
    [skips, lent, layers.sums()].into_iter().filter_map(block).collect()
}

/// The names of one kind of value, in a block of their own: they hide no type of the user.
fn block(values: Vec<Value<'_>>) -> Option<TokenStream> {
    // Keywords name values, too, but no functions.
    let values: Vec<_> = values.into_iter().filter(|value| is_free(value.name)).collect();
    let names = values.iter().map(|value| value.name);
    let docs = values.iter().map(|value| format!(" {}", value.says));
    let used = values.iter().flat_map(|value| &value.used).filter(|name| is_free(name));
    (!values.is_empty()).then(|| {
        quote_spanned! {here()=>
            const _: () = {
                #(
                    #[doc = #docs]
                    fn #names() {}
                )*
                const _: &[fn()] = &[#(#used),*];
            };
        }
    })
}

/// Whether the name can be that of a function in every edition, without a warning.
fn is_free(name: &Ident) -> bool {
    let text = plain(name);
    let is_snake_case = !text.contains(char::is_uppercase) && !text.trim_matches('_').contains("__");
    is_snake_case && name != "gen" && syn::parse2::<Ident>(name.to_token_stream()).is_ok()
}

/// The layers with their stages, for sentences about values.
#[derive(Clone, Copy)]
struct Layers<'m> {
    model: &'m Model,
    plan: &'m Plan,
}

impl<'m> Layers<'m> {
    fn skip(self, skip: &'m Skip) -> Option<Value<'m>> {
        let mut names = skip.stashes.iter().map(|end| &end.name).chain(skip.pops.iter().map(|end| &end.name));
        // A valid skip has one stash. Without any, nothing can be said about its name.
        let name = skip.stashes.first().and(names.next())?;
        let says = format!("Stashed by {}, popped by {}.", self.at(&skip.stashes), self.at(&skip.pops));
        Some(Value { name, says, used: names.collect() })
    }

    fn lent(self, lent: &'m Lent) -> Option<Value<'m>> {
        let outer = self.model.settings.outer_values().iter().map(|outer| &outer.name);
        let outer = outer.filter(|name| plain(name) == lent.name).collect::<Vec<_>>();
        let lender = if outer.is_empty() { self.at(&lent.lends) } else { "a layer outside of the block".to_owned() };
        let says = format!("Lent by {lender} to {}.", self.at(&lent.reads));
        let made = outer.into_iter().chain(lent.lends.iter().map(|end| &end.name)).collect::<Vec<_>>();
        let (name, again) = made.split_first()?;
        let used = again.iter().copied().chain(lent.reads.iter().map(|end| &end.name)).collect();
        Some(Value { name, says, used })
    }

    fn sums(self) -> Vec<Value<'m>> {
        let mut values: Vec<Value<'m>> = Vec::new();
        for Outer { name, .. } in self.model.settings.sums() {
            match values.iter_mut().find(|value| plain(value.name) == plain(name)) {
                // An error, but another place of the name.
                Some(value) => value.used.push(name),
                None => values.push(self.sum(name)),
            }
        }
        values
    }

    fn sum(self, name: &'m Ident) -> Value<'m> {
        let layers = self.model.layers.iter().enumerate();
        let adding = layers.flat_map(|(layer, field)| field.sums().iter().map(move |other| (layer, other)));
        let (adding, used): (Vec<_>, Vec<_>) = adding.filter(|(_, other)| plain(other) == plain(name)).unzip();
        Value { name, says: format!("Added up by {}.", self.listed(adding.into_iter())), used }
    }

    fn at<What>(self, ends: &[End<What>]) -> String {
        self.listed(ends.iter().map(|end| end.layer))
    }

    /// The first ones, and how many more there are.
    fn listed(self, layers: impl ExactSizeIterator<Item = usize>) -> String {
        const SHOWN: usize = 8;
        let more = layers.len().saturating_sub(SHOWN);
        let shown = layers.take(SHOWN).map(|layer| self.placed(layer)).collect::<Vec<_>>().join(", ");
        match more {
            0 if shown.is_empty() => "no layer".to_owned(),
            0 => shown,
            more => format!("{shown} and {more} more"),
        }
    }

    /// `` `layer` (stage 1) ``, or `` `layer` (stages 1 to 3) ``.
    fn placed(self, layer: usize) -> String {
        let child = self.model.layers[layer].child();
        let runs = |stage: &Stage| stage.steps.iter().any(|step| step.layer == layer);
        let stages = self.plan.stages.iter().enumerate();
        let mut stages = stages.filter(|(_, stage)| runs(stage)).map(|(number, _)| number);
        match (self.model.has_devices, stages.next(), stages.next_back()) {
            (true, Some(first), None) => format!("`{child}` (stage {first})"),
            (true, Some(first), Some(last)) => format!("`{child}` (stages {first} to {last})"),
            _ => format!("`{child}`"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_for_all_programs_but_compilers() {
        let programs = ["/bin/rustc", "clippy-driver.exe", "/lib/rust-analyzer-proc-macro-srv", "my-editor", ""];
        assert_eq!(programs.map(|program| is_compiler(Path::new(program))), [true, true, false, false, false]);
    }
}
