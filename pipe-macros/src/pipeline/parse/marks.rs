//! The attributes of a field.

use proc_macro2::{Ident, TokenStream};
use quote::ToTokens;
use syn::ext::IdentExt;
use syn::parse::ParseStream;
use syn::punctuated::Punctuated;
use syn::{Attribute, Ident as AnyIdent, Index, LitFloat, LitInt, LitStr, Member, Meta, Token, bracketed, token};

use super::skip_to_comma;
use crate::pipeline::declaration::{Kept, Mark, Marks, Part, Pop, Processes, Recomputed, Stash};
use crate::support::errors::{Errors, error, error_at_both, says_what_to_do, with_help};
use crate::support::names::plain;

pub fn is_mark(attr: &Attribute) -> bool {
    example(attr).is_some()
}

pub fn is_device(attr: &Attribute) -> bool {
    attr.path().is_ident("device") || attr.path().is_ident("devices")
}

/// An example of the attribute; `None` if it does not belong to this crate.
fn example(attr: &Attribute) -> Option<&'static str> {
    let examples = [
        ("device", "#[device(\"cuda:0\")]` or `#[device(\"cuda:0\", process = 1)]"),
        ("devices", "#[devices(\"cuda:0\", \"cuda:1\")]` or `#[devices(\"cuda:0\" = 5, \"cuda:1\" = 7)]"),
        ("stage", "#[stage]"),
        ("repeat", "#[repeat]"),
        ("recompute", "#[recompute]` or `#[recompute(3)]"),
        (
            "stash",
            "#[stash(name)]`, `#[stash(name[..])]`, `#[stash(name = input)]`, `#[stash(name = input.1)]` or `#[stash(name = output)]",
        ),
        ("pop", "#[pop(name)]` or `#[pop(name[..])]"),
        (
            "lend",
            "#[lend(name = output)]`, `#[lend(name = input)]`, `#[lend(name = input.1)]` or `#[lend(name = tied)]",
        ),
        ("read", "#[read(name)]"),
        ("sum", "#[sum(name)]"),
        ("layer", "#[layer(name = \"child\")]"),
        ("not_a_layer", "#[not_a_layer]"),
    ];
    examples.into_iter().find(|(word, _)| attr.path().is_ident(word)).map(|(_, example)| example)
}

/// Reads the attributes. Reports what cannot be read, and records it, so that it is reported only
/// once.
pub fn parse(attrs: &[Attribute], errors: &mut Errors) -> Marks {
    let mut marks = Marks::default();
    for attr in attrs {
        let (Some(example), Some(word)) = (example(attr), attr.path().get_ident()) else {
            continue;
        };
        let mut wrong = Vec::new();
        if let Err(unreadable) = read(attr, word, &mut marks, &mut wrong, errors) {
            wrong.push(unreadable);
        }
        if !wrong.is_empty() {
            marks.unreadable.push(word.clone());
        }
        for wrong in wrong {
            errors.push(match says_what_to_do(&wrong) {
                true => wrong,
                false => syn::Error::new(wrong.span(), with_help(&wrong, format!("write `{example}`"))),
            });
        }
    }
    marks
}

fn read(
    attr: &Attribute,
    word: &Ident,
    marks: &mut Marks,
    wrong: &mut Vec<syn::Error>,
    errors: &mut Errors,
) -> syn::Result<()> {
    match word.to_string().as_str() {
        "device" => {
            let (device, process) = attr.parse_args_with(device)?;
            fill(&mut marks.device, word, device, errors);
            marks.processes = marks.processes.take().or(process);
        }
        "devices" => {
            let (parts, processes) = attr.parse_args_with(parts)?;
            fill(&mut marks.devices, word, parts, errors);
            marks.processes = marks.processes.take().or(processes);
        }
        "stash" => {
            let stashes = attr.parse_args_with(|tokens: ParseStream| names(tokens, stash, wrong))?;
            fill_list(&mut marks.stash, word, stashes, errors);
        }
        "pop" => {
            let pops = attr.parse_args_with(|tokens: ParseStream| names(tokens, pop, wrong))?;
            fill_list(&mut marks.pop, word, pops, errors);
        }
        "lend" => {
            let lends = attr.parse_args_with(|tokens: ParseStream| names(tokens, lend, wrong))?;
            fill_list(&mut marks.lend, word, lends, errors);
        }
        "read" => {
            let reads = attr.parse_args_with(|tokens: ParseStream| names(tokens, skip_name, wrong))?;
            fill_list(&mut marks.read, word, reads, errors);
            marks.reads_first = marks.pop.is_none();
        }
        "sum" => {
            let sums = attr.parse_args_with(|tokens: ParseStream| names(tokens, skip_name, wrong))?;
            fill_list(&mut marks.sum, word, sums, errors);
            marks.sums_first = marks.stash.is_none();
        }
        "recompute" => {
            let which = match &attr.meta {
                Meta::Path(_) => Recomputed::All,
                _ => Recomputed::First(attr.parse_args()?),
            };
            fill(&mut marks.recompute, word, which, errors);
        }
        "layer" => fill(&mut marks.layer, word, attr.parse_args_with(layer_name)?, errors),
        alone => {
            let place = match alone {
                "stage" => &mut marks.stage,
                "repeat" => &mut marks.repeat,
                _ => &mut marks.not_a_layer,
            };
            fill(place, word, (), errors);
            // The meaning is clear even if there are arguments.
            wrong.extend(arguments(attr));
        }
    }
    Ok(())
}

fn fill<T>(place: &mut Option<Mark<T>>, word: &Ident, value: T, errors: &mut Errors) {
    match place {
        Some(first) => errors.push(repeated(word, &first.word)),
        None => *place = Some(Mark { word: word.clone(), value }),
    }
}

/// A second list counts too, so that its names are not reported as missing elsewhere.
fn fill_list<T>(place: &mut Option<Mark<Vec<T>>>, word: &Ident, value: Vec<T>, errors: &mut Errors) {
    match place {
        Some(first) => {
            errors.push(repeated(word, &first.word));
            first.value.extend(value);
        }
        None => *place = Some(Mark { word: word.clone(), value }),
    }
}

/// Rejects an attribute that is repeated on a field: `#[pop(a)] #[pop(b)] decode: Decode`
fn repeated(word: &Ident, first: &Ident) -> syn::Error {
    error_at_both(
        word,
        format!("`#[{word}]` is repeated on this field"),
        format!("keep one `#[{word}]`"),
        first,
        format!("the first `#[{word}]` is here"),
    )
}

/// The error of an attribute with arguments that takes none: `#[stage(2)]`.
fn arguments(attr: &Attribute) -> Option<syn::Error> {
    match &attr.meta {
        Meta::Path(_) => None,
        Meta::List(list) => Some(error_no_arguments(&list.tokens, attr)),
        Meta::NameValue(pair) => Some(error_no_arguments(&pair.value.to_token_stream(), attr)),
    }
}

/// Points at the arguments, or at the attribute's name if the parentheses are empty.
fn error_no_arguments(arguments: &TokenStream, attr: &Attribute) -> syn::Error {
    let message = "this attribute takes no arguments";
    match arguments.is_empty() {
        true => syn::Error::new_spanned(attr.path(), message),
        false => syn::Error::new_spanned(arguments, message),
    }
}

/// Reads `"cuda:0"` or `"cuda:0", process = 1`.
fn device(tokens: ParseStream) -> syn::Result<(LitStr, Option<Mark<Processes>>)> {
    let device = string(tokens, "a device")?;
    let comma = tokens.parse::<Option<Token![,]>>()?;
    let process = match comma.is_some() && tokens.peek(AnyIdent) {
        true => Some(process(tokens)?),
        false => None,
    };
    match (&process, tokens.is_empty()) {
        (Some(Mark { word, value: Processes::Each(_) }), _) => {
            Err(syn::Error::new_spanned(word, "one device is in one process: `process = 1`"))
        }
        (_, true) => Ok((device, process)),
        (_, false) => Err(tokens.error("a layer runs on one device; arrays and `Vec`s are spread by `#[devices(..)]`")),
    }
}

/// Reads `"cuda:0", "cuda:1"`, each with or without `= 5`, and `process = ..` at the end or
/// nothing.
fn parts(tokens: ParseStream) -> syn::Result<(Vec<Part>, Option<Mark<Processes>>)> {
    let mut parts = Vec::new();
    let mut processes = None;
    while !tokens.is_empty() {
        if tokens.peek(AnyIdent) {
            processes = Some(process(tokens)?);
            break;
        }
        parts.push(part(tokens)?);
        if !tokens.is_empty() {
            tokens.parse::<Token![,]>()?;
        }
    }
    if parts.is_empty() {
        return Err(syn::Error::new(tokens.span(), "expected at least one device"));
    }
    match tokens.is_empty() {
        true => Ok((parts, processes)),
        false => Err(tokens.error("`process = ..` is the last argument: the devices stand before it")),
    }
}

/// Reads `process = 1` or `process = [0, 1]`.
fn process(tokens: ParseStream) -> syn::Result<Mark<Processes>> {
    let number = |tokens: ParseStream| tokens.parse().map_err(|wrong| expected(&wrong, "the number of a process"));
    let word: Ident = tokens.parse()?;
    if word != "process" {
        return Err(expected(&syn::Error::new_spanned(word, ""), "`process`"));
    }
    tokens.parse::<Token![=]>()?;
    let value = match tokens.peek(token::Bracket) {
        true => {
            let list;
            bracketed!(list in tokens);
            Processes::Each(
                Punctuated::<LitInt, Token![,]>::parse_terminated_with(&list, number)?.into_iter().collect(),
            )
        }
        false => Processes::All(number(tokens)?),
    };
    tokens.parse::<Option<Token![,]>>().map(|_| Mark { word, value })
}

/// Reads `"cuda:0"` or `"cuda:0" = 5`.
fn part(tokens: ParseStream) -> syn::Result<Part> {
    let device = string(tokens, "a device")?;
    let count = match tokens.parse::<Option<Token![=]>>()? {
        Some(_) => Some(tokens.parse().map_err(|wrong| expected(&wrong, "a number of layers"))?),
        None => None,
    };
    Ok(Part { device, count })
}

/// `a` or `a[..]`
fn pop(tokens: ParseStream) -> syn::Result<Pop> {
    Ok(Pop { name: skip_name(tokens)?, each: each(tokens)? })
}

/// Whether `[..]` stands here.
fn each(tokens: ParseStream) -> syn::Result<bool> {
    if !tokens.peek(token::Bracket) {
        return Ok(false);
    }
    let all;
    bracketed!(all in tokens);
    let dots = all.parse::<Token![..]>();
    // So that the rest is not an error of its own.
    let rest: TokenStream = all.parse()?;
    let wrong = dots.err().or_else(|| (!rest.is_empty()).then(|| syn::Error::new_spanned(&rest, "")));
    wrong.map_or(Ok(true), |wrong| Err(expected(&wrong, "`[..]`, for each layer of the array")))
}

/// `a`, `a = input`, `a = input.1` or `a = output`, or the same of `a[..]`
fn stash(tokens: ParseStream) -> syn::Result<Stash> {
    let name = skip_name(tokens)?;
    let each = each(tokens)?;
    let kept = match tokens.parse::<Option<Token![=]>>()? {
        Some(_) => kept(tokens, &name, &STASHED)?,
        None => Kept::Returned,
    };
    let part = match kept {
        Kept::Input | Kept::Output => part_of_value(tokens)?,
        Kept::Returned | Kept::Tied => Vec::new(),
    };
    Ok(Stash { name, each, kept, part })
}

/// `a = input`, `a = input.1`, `a = output` or `a = tied`
fn lend(tokens: ParseStream) -> syn::Result<Stash> {
    let name = skip_name(tokens)?;
    tokens.parse::<Token![=]>().map_err(|wrong| expected(&wrong, "`=` and what is lent"))?;
    let kept = kept(tokens, &name, &LENT)?;
    let part = if kept == Kept::Tied { Vec::new() } else { part_of_value(tokens)? };
    Ok(Stash { name, each: false, kept, part })
}

/// Reads `.1`, `.noise`, `.1.0`, or nothing. Rust's lexer reads `1.0` as one number.
fn part_of_value(tokens: ParseStream) -> syn::Result<Vec<Member>> {
    const WHAT: &str = "the number or the name of a part";
    let mut part = Vec::new();
    while tokens.parse::<Option<Token![.]>>()?.is_some() {
        if tokens.peek(LitFloat) {
            let both: LitFloat = tokens.parse()?;
            for digits in both.to_string().split('.') {
                let index = digits.parse().map_err(|_| expected(&syn::Error::new(both.span(), ""), WHAT))?;
                part.push(Member::Unnamed(Index { index, span: both.span() }));
            }
        } else {
            part.push(tokens.parse().map_err(|wrong| expected(&wrong, WHAT))?);
        }
    }
    Ok(part)
}

/// The values that can be kept, and their words.
type Values = [(&'static str, Kept)];

const STASHED: [(&str, Kept); 2] = [("input", Kept::Input), ("output", Kept::Output)];
const LENT: [(&str, Kept); 3] = [("input", Kept::Input), ("output", Kept::Output), ("tied", Kept::Tied)];

fn kept(tokens: ParseStream, name: &Ident, values: &Values) -> syn::Result<Kept> {
    let words: Vec<String> = values.iter().map(|(word, _)| format!("`{word}`")).collect();
    let (last, others) = words.split_last().expect("there are several");
    let what = format!("{} or {last}", others.join(", "));
    let word: Ident = tokens.parse().map_err(|wrong| expected(&wrong, &what))?;
    match values.iter().find(|(name, _)| word == name) {
        Some((_, kept)) => Ok(*kept),
        None if word == "tied" => {
            let name = plain(name);
            let wrong = format!("a weight is lent and read, so `{name}` cannot be stashed");
            let help = format!("write `#[lend({name} = tied)]`, and `#[read({name})]` in the layers that take it");
            Err(error(word, wrong, help))
        }
        None => Err(expected(&syn::Error::new_spanned(word, ""), &what)),
    }
}

fn skip_name(tokens: ParseStream) -> syn::Result<Ident> {
    let name = tokens.call(Ident::parse_any).map_err(|wrong| expected(&wrong, "the name of a skip"))?;
    match name == "_" {
        true => {
            Err(syn::Error::new_spanned(name, "a skip has a name: what is popped is for the layer to use or to drop"))
        }
        false => Ok(name),
    }
}

fn layer_name(tokens: ParseStream) -> syn::Result<LitStr> {
    let key: Ident = tokens.parse().map_err(|wrong| expected(&wrong, "`name`"))?;
    if key != "name" {
        return Err(expected(&syn::Error::new_spanned(key, ""), "`name`"));
    }
    tokens.parse::<Token![=]>()?;
    let name = string(tokens, "a name")?;
    tokens.parse::<Option<Token![,]>>()?;
    Ok(name)
}

fn string(tokens: ParseStream, what: &str) -> syn::Result<LitStr> {
    tokens.parse().map_err(|wrong| expected(&wrong, &format!("{what} in quotes")))
}

fn expected(wrong: &syn::Error, what: &str) -> syn::Error {
    syn::Error::new(wrong.span(), format!("expected {what}"))
}

/// Reads the names. An error in one name goes to `wrong` and does not hide the next name.
fn names<T>(
    tokens: ParseStream,
    one: fn(ParseStream) -> syn::Result<T>,
    wrong: &mut Vec<syn::Error>,
) -> syn::Result<Vec<T>> {
    if tokens.is_empty() {
        return Err(syn::Error::new(tokens.span(), "expected at least one name"));
    }
    let mut names = Vec::new();
    while !tokens.is_empty() {
        match one(tokens).and_then(|name| at_end_of_item(tokens).map(|()| name)) {
            Ok(name) => names.push(name),
            Err(error) => {
                wrong.push(error);
                skip_to_comma(tokens);
            }
        }
        tokens.parse::<Option<Token![,]>>()?;
    }
    Ok(names)
}

fn at_end_of_item(tokens: ParseStream) -> syn::Result<()> {
    match tokens.is_empty() || tokens.peek(Token![,]) {
        true => Ok(()),
        false => Err(tokens.error("expected `,` before this")),
    }
}

#[cfg(test)]
mod tests {
    use quote::ToTokens;

    use crate::pipeline::declaration::{Kept, Stash};
    use crate::pipeline::tests::{mistakes, model};

    #[test]
    fn kinds_of_stashes_can_be_mixed() {
        let model = model("struct M { #[stash(a, b = output, c = input,)] one: One, #[pop(c, a, b)] two: Two }");
        let kept: Vec<_> = model.layers[0].stashes().iter().map(|stash| stash.kept).collect();
        assert_eq!(kept, [Kept::Returned, Kept::Output, Kept::Input]);
    }

    #[test]
    fn a_part_of_a_value_has_numbers_and_names() {
        let model = model("struct M { #[stash(a = input.1, b = output.0.2.mask)] one: One, #[pop(a, b)] two: Two }");
        let part = |stash: &Stash| {
            let members = stash.part.iter().map(|member| member.to_token_stream().to_string());
            members.collect::<Vec<_>>().join(".")
        };
        let parts: Vec<_> = model.layers[0].stashes().iter().map(part).collect();
        assert_eq!(parts, ["1", "0.2.mask"]);
        for (source, what) in [
            ("a = input.", "expected the number or the name of a part"),
            ("a = input.-1", "expected the number or the name of a part"),
            ("a = input.1e3", "expected the number or the name of a part"),
            ("a = input.1.", "expected the number or the name of a part"),
            ("a = output.0 1", "expected `,` before this"),
        ] {
            let source = format!("struct M {{ #[stash({source})] one: One, #[pop(a)] two: Two }}");
            assert_eq!(mistakes(&source), format!("1: {what}\n"), "{source}");
        }
        // A weight has no parts.
        let source = "struct M { #[lend(a = tied.1)] one: One, #[read(a)] two: Two, #[read(a)] three: Three }";
        assert_eq!(mistakes(source), "1: expected `,` before this\n");
    }

    #[test]
    fn brackets_stand_for_each_layer_of_an_array() {
        let source = "struct M { #[repeat] #[stash(a[..], b[..] = input.1)] one: [One; 2], #[repeat] #[pop(b[..], a[..])] two: [Two; 2] }";
        let model = model(source);
        assert_eq!(
            model.layers[0].stashes().iter().map(|stash| stash.kept).collect::<Vec<_>>(),
            [Kept::Returned, Kept::Input]
        );
        assert!(
            model.layers[0].stashes().iter().all(|stash| stash.each)
                && model.layers[1].pops().iter().all(|pop| pop.each)
        );
        for brackets in ["[]", "[0]", "[.. 1]", "[1..]"] {
            let source = format!(
                "struct M {{ #[repeat] #[stash(a{brackets})] one: [One; 2], #[repeat] #[pop(a[..])] two: [Two; 2] }}"
            );
            assert_eq!(mistakes(&source), "1: expected `[..]`, for each layer of the array\n", "{brackets}");
        }
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
            "2: expected a device in quotes\n3: expected the name of a skip\n4: expected attribute arguments in parentheses: #[pop(...)]\n"
        );
    }

    #[test]
    fn one_unreadable_name_does_not_hide_the_next() {
        let source = "struct M {\n#[stash(a = both,\n\"b\",\nc = output,\nd e)]\na: A,\n#[pop(c)]\nb: B }";
        assert_eq!(
            mistakes(source),
            "2: expected `input` or `output`\n3: expected the name of a skip\n5: expected `,` before this\n"
        );
    }

    #[test]
    fn what_is_unreadable_is_not_missed_elsewhere() {
        for source in [
            "struct M { #[stash(=)] a: A, #[pop(c)] b: B }",
            "struct M { #[stash(c = output)] a: A, #[pop(=)] b: B }",
            "struct M { #[stash(a = output)] a: A, #[stash(c = output)] b: B, #[pop(c)] #[pop(a)] d: D }",
            "struct M { #[not_a_layer] #[stash(c = output)] a: A, #[pop(c)] b: B }",
            "struct M { #[stash(c = output)] b: B, #[not_a_layer] #[pop(c)] a: A }",
            "struct M { #[device(cpu)] a: A, #[device(\"cpu\")] b: B }",
            "struct M { #[devices(cpu)] a: [A; 3] }",
            "struct M { #[repeat(3)] a: [A; 3] }",
            "struct M { #[layer(nmae = \"b\")] a: A, #[layer(name = \"a\")] b: B }",
        ] {
            let mistakes = mistakes(source);
            let main = mistakes.lines().filter(|line| !line.starts_with(' '));
            assert_eq!(main.count(), 1, "{source}\n{mistakes}");
        }
    }
}
