//! The attributes of a field.

use proc_macro2::{Ident, TokenStream};
use quote::ToTokens;
use syn::ext::IdentExt;
use syn::parse::ParseStream;
use syn::punctuated::Punctuated;
use syn::{Attribute, LitInt, LitStr, Meta, Token};

use crate::errors::{Errors, error_at_both, with_help};

/// What an attribute says, and the word it says it with, to point at.
pub struct Mark<T> {
    pub word: Ident,
    pub value: T,
}

/// All attributes of one field that are this crate's.
#[derive(Default)]
pub struct Marks {
    pub device: Option<Mark<LitStr>>,
    pub devices: Option<Mark<Vec<Part>>>,
    pub stage: Option<Mark<()>>,
    pub repeat: Option<Mark<()>>,
    pub stash: Option<Mark<Vec<Stash>>>,
    pub pop: Option<Mark<Vec<Ident>>>,
    pub layer: Option<Mark<LitStr>>,
    pub not_a_layer: Option<Mark<()>>,
}

/// One device of `#[devices(..)]`, with the number of layers if it is given.
pub struct Part {
    pub device: LitStr,
    pub count: Option<LitInt>,
}

impl Part {
    /// The number of layers, if it is given and is one.
    pub fn count(&self) -> Option<usize> {
        self.count.as_ref()?.base10_parse().ok()
    }
}

/// One name of `#[stash(..)]`.
pub struct Stash {
    pub name: Ident,
    pub kept: Kept,
}

/// Which value is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kept {
    /// One that the layer returns beside its output.
    Returned,
    Input,
    Output,
}

impl Marks {
    /// The words of all attributes that only mean something on a layer.
    pub fn words_for_layers(&self) -> Vec<&Ident> {
        let Self { device, devices, stage, repeat, stash, pop, layer, not_a_layer: _ } = self;
        let words = [
            device.as_ref().map(|mark| &mark.word),
            devices.as_ref().map(|mark| &mark.word),
            stage.as_ref().map(|mark| &mark.word),
            repeat.as_ref().map(|mark| &mark.word),
            stash.as_ref().map(|mark| &mark.word),
            pop.as_ref().map(|mark| &mark.word),
            layer.as_ref().map(|mark| &mark.word),
        ];
        words.into_iter().flatten().collect()
    }
}

pub fn is_mark(attr: &Attribute) -> bool {
    example(attr).is_some()
}

pub fn is_device(attr: &Attribute) -> bool {
    attr.path().is_ident("device") || attr.path().is_ident("devices")
}

/// How the attribute is written; `None` if it is not this crate's.
fn example(attr: &Attribute) -> Option<&'static str> {
    let examples = [
        ("device", "#[device(\"cuda:0\")]"),
        ("devices", "#[devices(\"cuda:0\", \"cuda:1\")]` or `#[devices(\"cuda:0\" = 5, \"cuda:1\" = 7)]"),
        ("stage", "#[stage]"),
        ("repeat", "#[repeat]"),
        ("stash", "#[stash(name)]`, `#[stash(name = input)]` or `#[stash(name = output)]"),
        ("pop", "#[pop(name)]"),
        ("layer", "#[layer(name = \"child\")]"),
        ("not_a_layer", "#[not_a_layer]"),
    ];
    examples.into_iter().find(|(word, _)| attr.path().is_ident(word)).map(|(_, example)| example)
}

pub fn parse(attrs: &[Attribute], errors: &mut Errors) -> Marks {
    let mut marks = Marks::default();
    for attr in attrs {
        let (Some(example), Some(word)) = (example(attr), attr.path().get_ident()) else {
            continue;
        };
        if let Err(wrong) = read(attr, word, &mut marks, errors) {
            let help = format!("write `{example}`");
            errors.push(syn::Error::new(wrong.span(), with_help(wrong, help)));
        }
    }
    marks
}

fn read(attr: &Attribute, word: &Ident, marks: &mut Marks, errors: &mut Errors) -> syn::Result<()> {
    match word.to_string().as_str() {
        "device" => fill(&mut marks.device, word, in_parentheses(attr, device)?, errors),
        "devices" => {
            let parts = in_parentheses(attr, parts)?;
            all_or_no_counts(&parts, errors);
            fill(&mut marks.devices, word, parts, errors);
        }
        "stage" => fill(&mut marks.stage, word, alone(attr)?, errors),
        "repeat" => fill(&mut marks.repeat, word, alone(attr)?, errors),
        "stash" => fill(&mut marks.stash, word, in_parentheses(attr, stashes)?, errors),
        "pop" => fill(&mut marks.pop, word, in_parentheses(attr, pops)?, errors),
        "layer" => fill(&mut marks.layer, word, in_parentheses(attr, layer_name)?, errors),
        _ => fill(&mut marks.not_a_layer, word, alone(attr)?, errors),
    }
    Ok(())
}

fn fill<T>(place: &mut Option<Mark<T>>, word: &Ident, value: T, errors: &mut Errors) {
    match place {
        Some(first) => errors.push(error_at_both(
            word,
            format!("`#[{word}]` is repeated on this field"),
            format!("keep one `#[{word}]`"),
            &first.word,
            format!("the first `#[{word}]` is here"),
        )),
        None => *place = Some(Mark { word: word.clone(), value }),
    }
}

fn in_parentheses<T>(attr: &Attribute, read: fn(ParseStream) -> syn::Result<T>) -> syn::Result<T> {
    attr.parse_args_with(read)
}

fn alone(attr: &Attribute) -> syn::Result<()> {
    match &attr.meta {
        Meta::Path(_) => Ok(()),
        Meta::List(list) => Err(error_no_arguments(&list.tokens, attr)),
        Meta::NameValue(pair) => Err(error_no_arguments(&pair.value.to_token_stream(), attr)),
    }
}

/// Points at the arguments, or at the word if the parentheses are empty.
fn error_no_arguments(arguments: &TokenStream, attr: &Attribute) -> syn::Error {
    let message = "this attribute takes no arguments";
    match arguments.is_empty() {
        true => syn::Error::new_spanned(attr.path(), message),
        false => syn::Error::new_spanned(arguments, message),
    }
}

fn device(tokens: ParseStream) -> syn::Result<LitStr> {
    let device = tokens.parse()?;
    tokens.parse::<Option<Token![,]>>()?;
    Ok(device)
}

fn parts(tokens: ParseStream) -> syn::Result<Vec<Part>> {
    at_least_one(tokens, "device", |tokens| {
        let device = tokens.parse()?;
        let count = match tokens.parse::<Option<Token![=]>>()? {
            Some(_) => Some(tokens.parse()?),
            None => None,
        };
        Ok(Part { device, count })
    })
}

fn stashes(tokens: ParseStream) -> syn::Result<Vec<Stash>> {
    at_least_one(tokens, "name", |tokens| {
        let name = skip_name(tokens)?;
        let kept = match tokens.parse::<Option<Token![=]>>()? {
            Some(_) => kept(tokens)?,
            None => Kept::Returned,
        };
        Ok(Stash { name, kept })
    })
}

fn kept(tokens: ParseStream) -> syn::Result<Kept> {
    let word: Ident = tokens.parse()?;
    match word.to_string().as_str() {
        "input" => Ok(Kept::Input),
        "output" => Ok(Kept::Output),
        _ => Err(syn::Error::new_spanned(word, "expected `input` or `output`")),
    }
}

fn pops(tokens: ParseStream) -> syn::Result<Vec<Ident>> {
    at_least_one(tokens, "name", skip_name)
}

fn skip_name(tokens: ParseStream) -> syn::Result<Ident> {
    tokens.call(Ident::parse_any).map_err(|wrong| syn::Error::new(wrong.span(), "expected the name of a skip"))
}

fn layer_name(tokens: ParseStream) -> syn::Result<LitStr> {
    let key: Ident = tokens.parse()?;
    if key != "name" {
        return Err(syn::Error::new_spanned(key, "expected `name`"));
    }
    tokens.parse::<Token![=]>()?;
    device(tokens)
}

fn at_least_one<T>(tokens: ParseStream, what: &str, one: fn(ParseStream) -> syn::Result<T>) -> syn::Result<Vec<T>> {
    if tokens.is_empty() {
        return Err(tokens.error(format!("expected at least one {what}")));
    }
    Ok(Punctuated::<T, Token![,]>::parse_terminated_with(tokens, one)?.into_iter().collect())
}

/// `#[devices("cuda:0" = 5, "cuda:1")]`: how many run on `cuda:1` is anyone's guess.
fn all_or_no_counts(parts: &[Part], errors: &mut Errors) {
    let Some(counted) = parts.iter().find(|part| part.count.is_some()) else {
        return;
    };
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

#[cfg(test)]
mod tests {
    use super::Kept;
    use crate::tests::{mistakes, model};

    #[test]
    fn kinds_of_stashes_can_be_mixed() {
        let model = model("struct M { #[stash(a, b = output, c = input,)] one: One, #[pop(c, a, b)] two: Two }");
        let kept: Vec<_> = model.layers[0].stashes().iter().map(|stash| stash.kept).collect();
        assert_eq!(kept, [Kept::Returned, Kept::Output, Kept::Input]);
    }

    #[test]
    fn attributes_of_others_are_left_alone() {
        let source = "struct M { #[serde(skip)] #[doc = \"one\"] #[other::device(1)] a: A }";
        assert_eq!(mistakes(source), "");
    }

    #[test]
    fn every_unreadable_attribute_of_a_field_is_reported() {
        let source = "struct M {\n#[device(0)]\n#[stash(=)]\n#[pop]\na: A }";
        assert_eq!(
            mistakes(source),
            "2: expected string literal\n3: expected the name of a skip\n4: expected attribute arguments in parentheses: #[pop(...)]\n"
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
}
