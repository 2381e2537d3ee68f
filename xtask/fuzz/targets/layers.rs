//! Any struct of layers with any attributes gets code or errors from `#[pipeline]`, and never a
//! panic. What is generated is Rust. `attribute` gives it texts, most of which are no struct; here
//! each input is one.

#![no_main]
#![allow(dead_code, unused_imports)]

#[path = "expansion.rs"]
mod expansion;
#[path = "../../../pipe-macros/src/pipeline/mod.rs"]
mod pipeline;
#[path = "../../../pipe-macros/src/support/mod.rs"]
mod support;

use std::str::FromStr;

use expansion::expand;
use libfuzzer_sys::arbitrary::{self, Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use pipe_fuzz::MEMORY;
use proc_macro2::TokenStream;

/// One of the words, modulo their number.
#[derive(Debug)]
struct Word<const LIST: usize>(&'static str);

const NAME: usize = 0;
const TYPE: usize = 1;
const DEVICE: usize = 2;
const VALUE: usize = 3;
const NUMBER: usize = 4;
const SETTING: usize = 5;
const WORDS: [&[&str]; 6] = [
    &["a", "b", "c", "r#type", "level", "level[..]", "level[1]", "input", "self"],
    &[
        "L",
        "Vec<L>",
        "[L; 1]",
        "[L; 2]",
        "[L; 4]",
        "[L; N]",
        "[L; { 1 + 1 }]",
        "Option<L>",
        "&'a L",
        "Box<dyn M<T>>",
        "(L, L)",
        "[[L; 2]; 3]",
        "Option<Vec<L>>",
        "fn(T) -> T",
        "Tied<L>",
        "[L; 0]",
        "impl M",
        "[L; 9999999999999]",
    ],
    &["cpu", "cuda:0", "cuda:1", "mps", "xpu:3", "cuda", "cuda:-1", "cuda:99999999999999999999", "", "\\u{e9}"],
    &["", "= input", "= output", "= output.1", "= output.a.0", "= tied", "= 3", "= input.99999999999999999999"],
    &["0", "1", "2", "3", "4", "7", "64", "999999999999", "18446744073709551616", "-1", "2usize", "N", "\"2\"", "2.5"],
    &[
        "schedule = gpipe",
        "schedule = \"1f1b\"",
        "schedule = zbv",
        "schedule = interleaved",
        "schedule = S",
        "schedule = zb1p",
        "schedule = dualpipev",
        "checkpoint = always",
        "checkpoint = never",
        "checkpoint = x",
        "cheap_outputs = keep",
        "cheap_outputs = recompute_all",
        "input = (Tensor, Tensor)",
        "output = Out<'a>",
        "allow(single_stage)",
        "allow(short_skip, process)",
        "allow(x)",
        "sum(a: Mean)",
        "sum(b: Sum, c: Mean)",
        "sum(a)",
        "crate = x",
        "input",
    ],
];

impl<'a, const LIST: usize> Arbitrary<'a> for Word<LIST> {
    fn arbitrary(bytes: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let words = WORDS[LIST];
        Ok(Self(words[usize::from(u8::arbitrary(bytes)?) % words.len()]))
    }
}

#[derive(Debug, Arbitrary)]
enum Mark {
    Device(Word<DEVICE>, Option<Word<NUMBER>>),
    Devices(Vec<(Word<DEVICE>, Option<Word<NUMBER>>)>),
    Stage,
    StageIn(Word<NUMBER>),
    Stash(Word<NAME>, Word<VALUE>),
    Pop(Vec<Word<NAME>>),
    Lend(Word<NAME>, Word<VALUE>),
    Read(Vec<Word<NAME>>),
    Sum(Vec<Word<NAME>>),
    Repeat,
    Recompute(Option<Word<NUMBER>>),
    NotALayer,
    Layer(Word<NAME>),
}

#[derive(Debug, Arbitrary)]
enum Setting {
    Word(Word<SETTING>),
    Chunks(Word<NUMBER>),
}

#[derive(Debug, Arbitrary)]
struct Struct {
    settings: Vec<Setting>,
    is_generic: bool,
    fields: Vec<(Vec<Mark>, Word<TYPE>)>,
}

fn list<T>(items: &[T], text: impl Fn(&T) -> String) -> String {
    items.iter().map(text).collect::<Vec<_>>().join(", ")
}

fn mark(mark: &Mark) -> String {
    let names = |names: &[Word<NAME>]| list(names, |name| name.0.to_owned());
    match mark {
        Mark::Device(device, None) => format!("#[device(\"{}\")]", device.0),
        Mark::Device(device, Some(process)) => format!("#[device(\"{}\", process = {})]", device.0, process.0),
        Mark::Devices(devices) => {
            let part = |(device, count): &(Word<DEVICE>, Option<Word<NUMBER>>)| match count {
                None => format!("\"{}\"", device.0),
                Some(count) => format!("\"{}\" = {}", device.0, count.0),
            };
            format!("#[devices({})]", list(devices, part))
        }
        Mark::Stage => "#[stage]".into(),
        Mark::StageIn(process) => format!("#[stage(process = {})]", process.0),
        Mark::Stash(name, value) => format!("#[stash({} {})]", name.0, value.0),
        Mark::Pop(of) => format!("#[pop({})]", names(of)),
        Mark::Lend(name, value) => format!("#[lend({} {})]", name.0, value.0),
        Mark::Read(of) => format!("#[read({})]", names(of)),
        Mark::Sum(of) => format!("#[sum({})]", names(of)),
        Mark::Repeat => "#[repeat]".into(),
        Mark::Recompute(None) => "#[recompute]".into(),
        Mark::Recompute(Some(count)) => format!("#[recompute({})]", count.0),
        Mark::NotALayer => "#[not_a_layer]".into(),
        Mark::Layer(name) => format!("#[layer(name = \"{}\")]", name.0),
    }
}

fuzz_target!(init: MEMORY.set_limit(64 << 20).expect("less is in use"), |input: Struct| {
    let setting = |setting: &Setting| match setting {
        Setting::Word(word) => word.0.to_owned(),
        Setting::Chunks(chunks) => format!("chunks = {}", chunks.0),
    };
    let settings = list(&input.settings, setting);
    let generics = if input.is_generic { "<'a, T: Flow, const N: usize>" } else { "" };
    let mut fields = String::new();
    for (number, (marks, ty)) in input.fields.iter().enumerate() {
        fields += &format!("{} layer{number}: {},\n", marks.iter().map(mark).collect::<String>(), ty.0);
    }
    let tokens = |text: &str| TokenStream::from_str(text).expect("all of these are tokens");
    expand(tokens(&settings), tokens(&format!("pub struct Model{generics} {{ {fields} }}")));
    // Each source is kept for its spans, otherwise.
    proc_macro2::extra::invalidate_current_thread_spans();
});
