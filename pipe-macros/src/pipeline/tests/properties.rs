//! Properties of all structs, tested on random ones.

use proc_macro2::TokenStream;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use syn::visit::Visit;

use super::{compile_errors, derived, item, mistakes, model};
use crate::pipeline;
use crate::pipeline::attribute::attach_derive;
use crate::pipeline::balance_file::from_disk;
use crate::pipeline::check::is_local;

/// A struct before it is written as text.
#[derive(Clone, Debug)]
struct Source {
    settings: Vec<String>,
    fields: Vec<FieldSource>,
}

#[derive(Clone, Debug, Default)]
struct FieldSource {
    ty: String,
    attributes: Vec<String>,
    stashes: Vec<String>,
    pops: Vec<String>,
    lends: Vec<String>,
    reads: Vec<String>,
    sums: Vec<String>,
}

impl Source {
    fn text(&self) -> String {
        let fields: String = self.fields.iter().enumerate().map(|(index, field)| field.text(index)).collect();
        format!("#[pipeline({})] pub struct Model {{ {fields} }}", self.settings.join(", "))
    }
}

impl FieldSource {
    fn text(&self, index: usize) -> String {
        let mut text = self.attributes.join(" ");
        let lists = [
            ("stash", &self.stashes),
            ("pop", &self.pops),
            ("lend", &self.lends),
            ("read", &self.reads),
            ("sum", &self.sums),
        ];
        for (word, names) in lists {
            if !names.is_empty() {
                text.push_str(&format!("#[{word}({})]", names.join(", ")));
            }
        }
        format!("{text} field{index}: {},\n", self.ty)
    }

    fn is_layer(&self) -> bool {
        !self.attributes.iter().any(|attribute| attribute == "#[not_a_layer]")
    }

    fn is_repeated(&self) -> bool {
        self.ty.starts_with('[') || self.ty.starts_with("Vec")
    }

    fn is_optional(&self) -> bool {
        self.ty.starts_with("Option")
    }
}

/// The kind of a field, chosen before its neighbours are known.
#[derive(Clone, Debug)]
enum Kind {
    Single,
    Optional,
    Repeated(&'static str),
    Spread(&'static str, &'static str),
    Plain,
}

fn kind() -> impl Strategy<Value = Kind> {
    let spread = [
        ("[Block; 5]", "#[devices(\"cuda:0\", \"cuda:1\")]"),
        ("[Block; 5]", "#[devices(\"cpu\" = 2, \"cpu\" = 3)]"),
        ("[Block; N]", "#[devices(\"cuda:1\" = 2, \"cpu\" = 3)]"),
        ("Vec<Block>", "#[devices(\"xpu:0\", \"mps\", \"cpu\")]"),
        ("Vec<Block>", "#[devices(\"cuda:1\")]"),
    ];
    prop_oneof![
        6 => Just(Kind::Single),
        1 => Just(Kind::Optional),
        1 => select(&["[Block; 3]", "[Block; N]", "Vec<Block>"][..]).prop_map(Kind::Repeated),
        1 => select(spread.to_vec()).prop_map(|(ty, devices)| Kind::Spread(ty, devices)),
        1 => Just(Kind::Plain),
    ]
}

fn device() -> impl Strategy<Value = Option<&'static str>> {
    let some = select(&["cpu", "cuda:0", "cuda:1", "mps", "xpu:2"][..]).prop_map(Some);
    prop_oneof![2 => Just(None), 1 => some]
}

fn field() -> impl Strategy<Value = (Kind, Option<&'static str>, bool)> {
    (kind(), device(), prop::bool::weighted(0.1))
}

fn settings() -> impl Strategy<Value = Vec<String>> {
    let all = ["chunks = 8", "checkpoint = never", "input = (Tensor, Vec<A, B>)", "allow(short_skip)"];
    prop::sample::subsequence(all.to_vec(), 0..=all.len())
        .prop_map(|chosen| chosen.into_iter().map(str::to_owned).collect())
}

/// A struct without errors.
fn valid() -> impl Strategy<Value = Source> {
    let routes = vec(
        (any::<Index>(), any::<Index>(), select(&["", " = input", " = input.1", " = output", " = output.0.mask"][..])),
        0..6,
    );
    let lent = vec((vec(any::<Index>(), 2..6), select(&["input", "input.1", "output", "output.0.mask"][..])), 0..4);
    let summed = vec(vec(any::<Index>(), 1..4), 0..3);
    let all = (settings(), vec(field(), 1..12), any::<bool>(), routes, lent, summed);
    all.prop_map(|(mut settings, kinds, has_devices, routes, lent, summed)| {
        let mut fields: Vec<FieldSource> = Vec::new();
        for (kind, device, stage) in kinds {
            let is_first = !fields.iter().any(FieldSource::is_layer);
            fields.push(field_source(&kind, device, stage && !is_first, has_devices, is_first));
        }
        if has_devices && fields.iter().any(FieldSource::is_layer) {
            // GPipe takes any placement.
            settings.push("schedule = gpipe".to_owned());
        }
        let mut source = Source { settings, fields };
        for (number, (one, other, kept)) in routes.into_iter().enumerate() {
            add_route(&mut source, number, one, other, kept);
        }
        for (number, (layers, what)) in lent.into_iter().enumerate() {
            add_lent(&mut source, number, &layers, what);
        }
        add_sums(&mut source, &summed);
        source
    })
}

fn field_source(
    kind: &Kind,
    device: Option<&'static str>,
    stage: bool,
    has_devices: bool,
    is_first: bool,
) -> FieldSource {
    let mut attributes = Vec::new();
    let ty = match *kind {
        Kind::Plain => {
            attributes.push("#[not_a_layer]".to_owned());
            "Config"
        }
        Kind::Single => "nn::Linear",
        Kind::Optional => "Option<nn::Linear>",
        Kind::Repeated(ty) => {
            attributes.push("#[repeat]".to_owned());
            ty
        }
        Kind::Spread(ty, devices) if has_devices => {
            attributes.push(devices.to_owned());
            ty
        }
        Kind::Spread(..) => "nn::Linear",
    };
    if has_devices && !matches!(kind, Kind::Plain) {
        let device = device.or(is_first.then_some("cuda:0")).filter(|_| !matches!(kind, Kind::Spread(..)));
        attributes.extend(device.map(|device| format!("#[device(\"{device}\")]")));
        attributes.extend(stage.then(|| "#[stage]".to_owned()));
    }
    FieldSource { ty: ty.to_owned(), attributes, ..FieldSource::default() }
}

/// A name for a skip. A keyword is one, too.
fn skip_name(number: usize) -> String {
    if number == 0 { "self".to_owned() } else { format!("skip{number}") }
}

/// Adds a skip between two layers, if both may have one.
fn add_route(source: &mut Source, number: usize, one: Index, other: Index, kept: &str) {
    let (one, other) = (one.index(source.fields.len()), other.index(source.fields.len()));
    let (stash, pop) = (one.min(other), one.max(other));
    let fields = &mut source.fields;
    if stash == pop || !fields[stash].is_layer() || !fields[pop].is_layer() || fields[pop].is_optional() {
        return;
    }
    if fields[pop].is_repeated() {
        // A skip of each layer, if the arrays are as long as far as that is known.
        if fields[stash].is_repeated() && fields[stash].ty == fields[pop].ty {
            fields[stash].stashes.push(format!("{}[..]{kept}", skip_name(number)));
            fields[pop].pops.push(format!("{}[..]", skip_name(number)));
        }
        return;
    }
    let kept = if kept.is_empty() && (fields[stash].is_repeated() || fields[stash].is_optional()) {
        " = output"
    } else {
        kept
    };
    fields[stash].stashes.push(format!("{}{kept}", skip_name(number)));
    fields[pop].pops.push(skip_name(number));
}

/// Adds a value that the first of some layers lends and the others read, if they may.
fn add_lent(source: &mut Source, number: usize, layers: &[Index], what: &str) {
    let fields = &mut source.fields;
    let mut layers: Vec<usize> = layers.iter().map(|index| index.index(fields.len())).collect();
    layers.sort_unstable();
    layers.dedup();
    layers.retain(|&layer| fields[layer].is_layer());
    let Some((&lender, readers)) = layers.split_first() else { return };
    let readers: Vec<usize> = readers.iter().copied().filter(|&reader| !fields[reader].is_optional()).collect();
    if readers.is_empty() {
        return;
    }
    fields[lender].lends.push(format!("lent{number} = {what}"));
    for reader in readers {
        fields[reader].reads.push(format!("lent{number}"));
    }
}

/// Adds sums of some layers, if they may add to them.
fn add_sums(source: &mut Source, summed: &[Vec<Index>]) {
    let mut slots = Vec::new();
    for (number, layers) in summed.iter().enumerate() {
        let name = format!("sum{number}");
        let mut is_added = false;
        for layer in layers {
            let layer = layer.index(source.fields.len());
            let field = &mut source.fields[layer];
            if field.is_layer() && !field.is_optional() && !field.sums.contains(&name) {
                field.sums.push(name.clone());
                is_added = true;
            }
        }
        if is_added {
            slots.push(format!("{name}: Mean"));
        }
    }
    if !slots.is_empty() {
        source.settings.push(format!("sum({})", slots.join(", ")));
    }
}

/// One mistake, which is wrong in any struct.
fn damage() -> impl Strategy<Value = fn(&mut Source)> {
    let damages: Vec<fn(&mut Source)> = vec![
        |source| source.settings.push("chunks = 0, chunks = 1".to_owned()),
        |source| source.settings.insert(0, "chunk = 8".to_owned()),
        |source| source.settings.push("checkpoint = \"never\"".to_owned()),
        |source| source.settings.push("input".to_owned()),
        |source| source.fields[0].stashes.push("never_popped = output".to_owned()),
        |source| source.fields[0].pops.push("never_stashed".to_owned()),
        |source| source.fields[0].lends.push("never_read = output".to_owned()),
        |source| source.fields[0].reads.push("never_lent".to_owned()),
        |source| source.settings.push("read(nothing)".to_owned()),
        |source| source.fields[0].sums.push("never_declared".to_owned()),
        |source| source.fields[0].attributes.push("#[sum()]".to_owned()),
        |source| source.settings.insert(0, "sum(never_added: Mean)".to_owned()),
        |source| source.fields[0].attributes.push("#[device(\"cuda\")]".to_owned()),
        |source| source.fields[0].attributes.push("#[device(cpu)]".to_owned()),
        |source| source.fields[0].attributes.push("#[not_a_layer] #[not_a_layer]".to_owned()),
        |source| source.fields[0].attributes.push("#[stage(1)]".to_owned()),
        |source| source.fields[0].attributes.push("#[stash()]".to_owned()),
        |source| source.fields[0].attributes.push("#[layer(name = \"a.b\")]".to_owned()),
        |source| source.fields[0].attributes.push("#[repeat] #[repeat]".to_owned()),
        |source| source.fields[0].attributes.push("#[stage] #[not_a_layer]".to_owned()),
        |source| {
            source.fields.push(FieldSource { ty: "Arc<Linear>".to_owned(), ..FieldSource::default() });
        },
        |source| {
            source.fields.push(FieldSource { ty: "[Linear; 3]".to_owned(), ..FieldSource::default() });
        },
    ];
    select(damages)
}

/// Tokens that have a meaning for the macro, in random order.
fn words() -> impl Strategy<Value = String> {
    let words = [
        "device",
        "devices",
        "stage",
        "repeat",
        "stash",
        "pop",
        "lend",
        "read",
        "sum",
        "layer",
        "name",
        "not_a_layer",
        "pipeline",
        "input",
        "output",
        "chunks",
        "checkpoint",
        "schedule",
        "allow",
        "crate",
        "always",
        "struct",
        "enum",
        "Vec",
        "self",
        "r#type",
        "_",
        "=",
        ",",
        ";",
        ":",
        "::",
        "#",
        "!",
        "<",
        ">",
        "&",
        "'a",
        "0",
        "8",
        "-1",
        "1.5",
        "9999999999999999999999",
        "\"cpu\"",
        "\"cuda:0\"",
        "\"\"",
        "b\"x\"",
        "'c'",
        "()",
        "(a)",
        "(a = output)",
        "[]",
        "{}",
        "[A; 2]",
        "(\"cpu\" = 1, \"cpu\")",
    ];
    vec(select(words.to_vec()), 0..8).prop_map(|words| words.join(" "))
}

/// The messages of errors whose place is not in the source.
fn places_elsewhere(text: &str) -> Vec<String> {
    let (_, errors) = pipeline::checked(&item(text), &from_disk);
    let parts = errors.in_source_order().into_iter().flatten();
    let elsewhere = parts.filter(|part| {
        let place = part.span();
        place.byte_range().is_empty() || place.source_text().is_none_or(|written| !text.contains(&written))
    });
    elsewhere.map(|part| part.to_string()).collect()
}

proptest! {
    #[test]
    fn valid_structs_expand_without_errors_and_always_the_same(source in valid()) {
        let text = source.text();
        prop_assert_eq!(mistakes(&text), "", "{}", text);
        let tokens = derived(&text);
        prop_assert_eq!(compile_errors(tokens.clone()), 0);
        prop_assert!(syn::parse2::<syn::File>(tokens.clone()).is_ok(), "{tokens}");
        prop_assert_eq!(tokens.to_string(), derived(&text).to_string());
    }

    /// Otherwise a constant of the struct could have the name of one.
    #[test]
    fn every_local_variable_of_generated_code_is_known(source in valid()) {
        #[derive(Default)]
        struct Locals(Vec<String>);

        impl<'ast> Visit<'ast> for Locals {
            fn visit_pat_ident(&mut self, pattern: &'ast syn::PatIdent) {
                self.0.push(pattern.ident.to_string());
            }
        }

        let text = source.text();
        let mut locals = Locals::default();
        locals.visit_file(&syn::parse2(derived(&text)).unwrap());
        prop_assert!(!locals.0.is_empty());
        let model = model(&text);
        for local in locals.0 {
            prop_assert!(is_local(&model, &local), "{}: {}", local, text);
        }
    }

    #[test]
    fn damaged_structs_give_errors_and_stubs_that_are_items(mut source in valid(), damages in vec(damage(), 1..4)) {
        for damage in damages {
            damage(&mut source);
        }
        let text = source.text();
        let tokens = derived(&text);
        prop_assert!(compile_errors(tokens.clone()) > 0, "{}", text);
        prop_assert!(syn::parse2::<syn::File>(tokens.clone()).is_ok(), "{tokens}");
        prop_assert_eq!(tokens.to_string(), derived(&text).to_string());
    }

    #[test]
    fn errors_stand_on_what_the_user_wrote(mut source in valid(), damages in vec(damage(), 1..4)) {
        for damage in damages {
            damage(&mut source);
        }
        let text = source.text();
        prop_assert_eq!(places_elsewhere(&text), Vec::<String>::new(), "{}", text);
    }

    #[test]
    fn errors_about_any_arguments_stand_on_them(settings in words(), a in words(), b in words()) {
        let text = format!(
            "#[pipeline({settings})] struct S {{ #[device({a})] #[stash({b})] #[lend({b})] a: A, #[pop({a})] #[read({a})] #[sum({a})] #[devices({b})] b: [B; 2] }}"
        );
        if syn::parse_str::<syn::DeriveInput>(&text).is_ok() {
            prop_assert_eq!(places_elsewhere(&text), Vec::<String>::new(), "{}", text);
        }
    }

    #[test]
    fn no_attribute_arguments_panic(settings in words(), word in words(), marks in vec(words(), 4), ty in words()) {
        let [a, b, c, d] = marks.as_slice() else { unreachable!() };
        let structs = [
            format!("struct S {{ #[device({a})] #[devices({b})] #[stash({c})] #[pop({d})] a: A, #[{word}] b: {ty}, }}"),
            format!("struct S {{ #[layer({a})] #[stage({b})] a: A, #[devices({c})] b: [A; 2], #[repeat] b: [{d}] }}"),
            format!("struct S {{ #[lend({a})] #[read({b})] a: A, #[read({c})] b: [A; 2], #[lend({d})] c: C }}"),
            format!("struct S {{ #[sum({a})] a: A, #[sum({b})] #[stash({c})] b: [A; 2], #[sum({d})] c: Option<C> }}"),
            format!("{word} S {{ {a} }}"),
            word,
        ];
        for text in structs {
            if let (Ok(args), Ok(item)) = (settings.parse::<TokenStream>(), text.parse::<TokenStream>()) {
                pipeline::derive(attach_derive(args, item));
            }
        }
    }

    #[test]
    fn no_tokens_panic(text in any::<String>()) {
        if let Ok(tokens) = text.parse::<TokenStream>() {
            attach_derive(tokens.clone(), tokens.clone());
            pipeline::derive(tokens);
        }
    }
}
