//! `#[pipeline(balance = "balance.toml")]`: reads the stages that a measurement found, at compile
//! time.
//!
//! The contents of the file become attributes of the fields, so that later phases treat them as
//! annotations. If the file was made for another model, or for an earlier version of this one, the
//! first field that does not fit is an error.

mod file;

pub use file::{ReadFile, from_disk, path};

use proc_macro2::{Ident, Span};
use syn::{Expr, ExprLit, Lit, LitInt, LitStr};

use crate::pipeline::declaration::{Assigned, Declaration, Field, Mark, Part, Recomputed, Settings, Shape};
use crate::support::errors::{Errors, error};
use crate::support::names::plain;
use file::{Entry, File, Recompute, Stage, devices, one_for_each_stage, read, stale};

/// Reads the file, if one is named, and puts its contents on the fields.
///
/// The struct then counts as one with devices, even if the file is wrong, because it is used as
/// such a model.
pub fn apply(declaration: &mut Declaration, read_file: ReadFile<'_>, errors: &mut Errors) {
    let Some(named) = declaration.settings.balance.clone() else { return };
    declaration.has_devices = true;
    for field in layers(&mut declaration.fields) {
        placed_by_the_file_alone(field, &named, errors);
    }
    let before = errors.len();
    let assigned = match read(&named, &declaration.ident, read_file) {
        Ok(file) => {
            set(&mut declaration.settings, &file, &named, errors);
            Some(assign(&mut declaration.fields, &file, &named, errors))
        }
        Err(wrong) => {
            errors.push(wrong);
            None
        }
    };
    if errors.len() == before {
        declaration.assigned = assigned;
    } else {
        run_where_they_stand(&mut declaration.fields, &named);
    }
}

fn layers(fields: &mut [Field]) -> impl Iterator<Item = &mut Field> {
    fields.iter_mut().filter(|field| field.marks.not_a_layer.is_none())
}

/// Puts the settings of the file among those that are written. Their rules report a wrong value at
/// the name of the file.
fn set(settings: &mut Settings, file: &File, named: &LitStr, errors: &mut Errors) {
    let span = named.span();
    // Only what looks like a word is read as tokens, since brackets can be nested too deeply.
    let is_word = |text: &str| text.chars().all(|sign| sign == '_' || sign.is_alphanumeric());
    let word = |text: &String| match is_word(text).then(|| syn::parse_str::<Ident>(text)) {
        Some(Ok(mut word)) => {
            word.set_span(span);
            syn::parse_quote!(#word)
        }
        _ => quoted(text, span),
    };
    let number = |number: &usize| {
        let number = LitInt::new(&number.to_string(), span);
        syn::parse_quote!(#number)
    };
    let values: [(&str, &mut Option<Expr>, Option<Expr>); 4] = [
        ("schedule", &mut settings.schedule, file.schedule.as_ref().map(word)),
        ("chunks", &mut settings.chunks, file.chunks.as_ref().map(number)),
        ("checkpoint", &mut settings.checkpoint, file.checkpoint.as_ref().map(word)),
        ("cheap_outputs", &mut settings.cheap_outputs, file.cheap_outputs.as_ref().map(word)),
    ];
    for (name, written, value) in values {
        match (&written, value) {
            (Some(written), Some(_)) => errors.push(error(
                written,
                format!("`{}` sets `{name}` already", named.value()),
                format!("remove `{name}` here, or its line in the file"),
            )),
            (None, Some(value)) => *written = Some(value),
            (_, None) => {}
        }
    }
}

/// A string literal.
fn quoted(text: &str, span: Span) -> Expr {
    let text = LitStr::new(text, span);
    syn::parse_quote!(#text)
}

/// Puts each entry on its field. Stops at the first layer that does not fit, because those after it
/// would not fit either.
fn assign(fields: &mut [Field], file: &File, named: &LitStr, errors: &mut Errors) -> Assigned {
    let before = errors.len();
    let mut entries = file.layers.iter();
    let mut assigned = Assigned {
        stages: Vec::new(),
        devices: devices(file, named, errors),
        processes: file.processes.clone(),
        costs: file.costs.clone(),
        recomputes: file.layers.iter().any(|entry| entry.recompute.is_some()),
    };
    one_for_each_stage(file, named, errors);
    for field in layers(fields) {
        let is_empty_list = matches!(field.shape, Shape::List { .. }) && !is_next(&entries, field);
        if is_empty_list {
            // A `Vec` that had no layers when it was measured runs in the stage where it stands.
            field.marks.repeat = Some(Mark { word: Ident::new("repeat", named.span()), value: () });
            assigned.stages.push(Vec::new());
            continue;
        }
        match entries.next().filter(|entry| entry.name == child(field)) {
            Some(entry) => {
                let stages = place(field, entry, named, &assigned, errors);
                assigned.stages.push(stages);
            }
            None => {
                let what = format!("says nothing about layer `{}` in this place", child(field));
                errors.push(stale(&field.ident, named, what));
                return assigned;
            }
        }
    }
    if let Some(entry) = entries.next() {
        let what = format!("places a layer `{}` that `{}` does not have", entry.name, file.model);
        errors.push(stale(named, named, what));
    }
    let order: Vec<usize> = assigned.stages.iter().flatten().copied().collect();
    let in_order =
        order.first() == Some(&0) && order.windows(2).all(|pair| pair[0] == pair[1] || pair[0] + 1 == pair[1]);
    if errors.len() == before && (!in_order || order.last() != Some(&file.stages.wrapping_sub(1))) {
        errors.push(stale(named, named, format!("does not place the layers in order in {} stages", file.stages)));
    }
    assigned
}

/// Stands in for a file that does not fit: puts a device on the first layer, and a way to run on
/// each array. The file's error is already reported, and the rules of devices and arrays would
/// report the fields for the same fault.
fn run_where_they_stand(fields: &mut [Field], named: &LitStr) {
    let word = || Ident::new("balance", named.span());
    for (index, field) in layers(fields).enumerate() {
        field.marks.devices = None;
        field.marks.device = (index == 0).then(|| Mark { word: word(), value: LitStr::new("cpu", named.span()) });
        if field.shape.is_repeated() && field.marks.repeat.is_none() {
            field.marks.repeat = Some(Mark { word: word(), value: () });
        }
    }
}

fn child(field: &Field) -> String {
    field.marks.layer.as_ref().map_or_else(|| plain(&field.ident), |name| name.value.value())
}

fn is_next(entries: &std::slice::Iter<'_, Entry>, field: &Field) -> bool {
    entries.as_slice().first().is_some_and(|entry| entry.name == child(field))
}

/// Rejects attributes about stages on the fields, and removes them, so that no other rule reports
/// them.
fn placed_by_the_file_alone(field: &mut Field, named: &LitStr, errors: &mut Errors) {
    let marks = &mut field.marks;
    marks.processes = None;
    let words = [
        marks.device.take().map(|mark| mark.word),
        marks.devices.take().map(|mark| mark.word),
        marks.stage.take().map(|mark| mark.word),
    ];
    for word in words.into_iter().flatten() {
        errors.push(error(
            &word,
            format!("`{}` is placed by `{}` already", field.ident, named.value()),
            format!("remove `#[{word}]`, or the setting `balance`"),
        ));
    }
}

/// Puts an entry on its field. Returns the stages of its parts.
fn place(field: &mut Field, entry: &Entry, named: &LitStr, assigned: &Assigned, errors: &mut Errors) -> Vec<usize> {
    let each = match (&entry.stage, entry.count) {
        (Stage::Of(stage), None) => vec![*stage],
        (Stage::OfEach(stages), Some(count)) if stages.len() == count => stages.clone(),
        _ => {
            errors.push(contradictory(field, entry, named));
            return Vec::new();
        }
    };
    let length = match &field.shape {
        Shape::Single | Shape::Optional { .. } => None,
        Shape::List { .. } => Some(each.len()),
        Shape::Array { len, .. } => Some(literal(len).unwrap_or(each.len())),
    };
    if length.is_some() != entry.count.is_some() || length.is_some_and(|length| length != each.len()) {
        let counted = entry.count.map_or("one layer".to_owned(), |count| format!("{count} layers"));
        errors.push(stale(&field.ident, named, format!("has {counted} for `{}`", entry.name)));
        return Vec::new();
    }
    recompute(field, entry, named, errors);
    let parts = runs(&each);
    let word = Ident::new("balance", named.span());
    let device = |stage: usize| LitStr::new(assigned.devices.get(stage).map_or("cpu", String::as_str), named.span());
    let opens = assigned.stages.iter().flatten().next_back() != each.first();
    if parts.len() > 1 {
        let part = |&(stage, count): &(usize, usize)| Part {
            device: device(stage),
            count: Some(LitInt::new(&count.to_string(), named.span())),
        };
        field.marks.repeat = None;
        field.marks.devices = Some(Mark { word, value: parts.iter().map(part).collect() });
    } else {
        if opens {
            field.marks.device = each.first().map(|&stage| Mark { word: word.clone(), value: device(stage) });
        }
        if entry.count.is_some() && field.marks.repeat.is_none() {
            field.marks.repeat = Some(Mark { word, value: () });
        }
    }
    parts.into_iter().map(|(stage, _)| stage).collect()
}

/// Puts on the field which of its layers are recomputed. If the file does not say it, the field's
/// own attribute does.
fn recompute(field: &mut Field, entry: &Entry, named: &LitStr, errors: &mut Errors) {
    let numbers: Vec<usize> = match (&entry.recompute, entry.count) {
        (None, _) => return,
        (Some(Recompute::Of(recomputed)), None) => recomputed.then_some(0).into_iter().collect(),
        (Some(Recompute::OfEach(each)), Some(count)) if each.len() == count => {
            (0..count).filter(|&number| each[number]).collect()
        }
        _ => return errors.push(contradictory(field, entry, named)),
    };
    if let Some(mark) = &field.marks.recompute {
        errors.push(error(
            &mark.word,
            format!("`{}` says already which layers of `{}` are recomputed", named.value(), field.ident),
            "remove `#[recompute]`, or the lines `recompute` of the file",
        ));
    }
    let value = if entry.count.is_none() { Recomputed::All } else { Recomputed::Numbers(numbers.clone()) };
    let mark = Mark { word: Ident::new("balance", named.span()), value };
    field.marks.recompute = Some(mark).filter(|_| !numbers.is_empty());
}

fn contradictory(field: &Field, entry: &Entry, named: &LitStr) -> syn::Error {
    stale(&field.ident, named, format!("is contradictory about `{}`", entry.name))
}

/// The stages, each with its number of consecutive layers.
fn runs(each: &[usize]) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for &stage in each {
        match runs.last_mut() {
            Some((last, count)) if *last == stage => *count += 1,
            _ => runs.push((stage, 1)),
        }
    }
    runs
}

fn literal(len: &Expr) -> Option<usize> {
    match len {
        Expr::Lit(ExprLit { lit: Lit::Int(number), .. }) => number.base10_parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use crate::pipeline::declaration::Recomputed;
    use crate::pipeline::model::Layer;
    use crate::pipeline::plan::{Step, plan};
    use crate::pipeline::tests::{mistakes, model};

    /// Writes a file with this text, and returns the struct that names it.
    fn with_file(name: &str, text: &str, fields: &str) -> String {
        // Tests run in parallel, and two of them may choose the same name.
        static FILES: AtomicUsize = AtomicUsize::new(0);
        let number = FILES.fetch_add(1, Ordering::Relaxed);
        let file = std::env::temp_dir().join(format!("pipe-balance-{}-{number}-{name}.toml", std::process::id()));
        std::fs::write(&file, text).expect("the temporary folder can be written");
        format!("#[pipeline(balance = {:?})] struct Net {{ {fields} }}", file.display().to_string())
    }

    const NET: &str = r#"
format = 1
model = "Net"
stages = 3
devices = ["cpu", "cuda:0", "cuda:0"]
[[layers]]
name = "embed"
stage = 0
[[layers]]
name = "blocks"
count = 4
stage = [0, 1, 1, 2]
[[layers]]
name = "head"
stage = 2
"#;

    /// The only error that is reported.
    fn mistake(name: &str, text: &str, fields: &str) -> String {
        let all = mistakes(&with_file(name, text, fields));
        assert_eq!(all.lines().count(), 1, "{name}: one error for one mistake:\n{all}");
        // The path of the file differs between runs.
        let (_, said) = all.split_once(".toml` ").unwrap_or(("", &all));
        said.trim_end().to_owned()
    }

    const FIELDS: &str = "embed: E, blocks: [B; 4], head: H, #[not_a_layer] plain: u8";

    #[test]
    fn layers_run_where_the_file_says() {
        let model = model(&with_file("right", NET, FIELDS));
        assert!(model.has_devices);
        let stages: Vec<String> = plan(&model)
            .stages
            .iter()
            .map(|stage| {
                let step = |step: &Step| format!("{}[{}]", model.layers[step.layer].ident, step.part);
                format!("{}: {}", stage.device, stage.steps.iter().map(step).collect::<Vec<_>>().join(" "))
            })
            .collect();
        assert_eq!(stages, ["cpu: embed[0] blocks[0]", "cuda:0: blocks[1]", "cuda:0: blocks[2] head[0]"]);
    }

    #[test]
    fn stages_run_in_the_processes_that_the_file_names() {
        let text = NET.replace("stages = 3", "stages = 3\nprocesses = [0, 1, 1]\ncosts = [3, 1, 2]");
        let model = model(&with_file("processes", &text, FIELDS));
        let processes: Vec<_> = plan(&model).stages.iter().map(|stage| stage.process).collect();
        assert_eq!(processes, [Some(0), Some(1), Some(1)]);
        assert_eq!(model.assigned.expect("a file").costs, [3, 1, 2]);
        // A schedule that runs two stages on one rank wants them in one process.
        let four = "format = 1\nmodel = \"Net\"\nstages = 4\nprocesses = [0, 0, 1, 1]\n\
                    [[layers]]\nname = \"blocks\"\ncount = 4\nstage = [0, 1, 2, 3]\n";
        let source = with_file("ranks", four, "blocks: [B; 4]");
        assert_eq!(mistakes(&source), "");
        let said = mistakes(&source.replace("\")]", "\", schedule = zbv)]"));
        assert!(said.contains("on one rank, but they are in processes 0 and 1"), "{said}");
    }

    #[test]
    fn the_file_may_have_settings() {
        let text = NET.replace("cuda:0", "cpu").replace(
            "stages = 3",
            "stages = 3\nschedule = \"1f1b\"\nchunks = 6\ncheckpoint = \"never\"\ncheap_outputs = \"keep\"",
        );
        let settings = model(&with_file("settings", &text, FIELDS)).settings;
        let written = |value: &Option<syn::Expr>| quote::ToTokens::to_token_stream(value).to_string();
        assert_eq!(written(&settings.schedule), "\"1f1b\"");
        assert_eq!(written(&settings.chunks), "6");
        assert_eq!(written(&settings.checkpoint), "never");
        assert_eq!(written(&settings.cheap_outputs), "keep");
        // The rules of settings hold for those of the file, too.
        let said = mistake("mode", &text.replace("\"never\"", "\"sometimes\""), FIELDS);
        assert!(said.contains("checkpoint is not one of"), "{said}");
        let said = mistakes(&with_file("twice", &text, FIELDS).replace("\")]", "\", chunks = 8)]"));
        assert!(said.contains("sets `chunks` already") && said.lines().count() == 1, "{said}");
    }

    #[test]
    fn layers_are_recomputed_as_the_file_says() {
        let recomputed = |text: String, fields: &str| {
            let model = model(&with_file("recompute", &text, fields));
            let which = |layer: &Layer| match layer.marks.recompute.as_ref().map(|mark| &mark.value) {
                None => "none".to_owned(),
                Some(Recomputed::All) => "all".to_owned(),
                Some(Recomputed::First(count)) => format!("first {count}"),
                Some(Recomputed::Numbers(numbers)) => format!("{numbers:?}"),
            };
            model.layers.iter().map(which).collect::<Vec<_>>()
        };
        let with = |embed: &str, blocks: &str| {
            let text = NET.replace("stage = 0", &format!("stage = 0\n{embed}"));
            text.replace("[0, 1, 1, 2]", &format!("[0, 1, 1, 2]\n{blocks}"))
        };
        let each = "recompute = [true, false, false, true]";
        assert_eq!(recomputed(with("recompute = true", each), FIELDS), ["all", "[0, 3]", "none"]);
        let nothing = "recompute = [false, false, false, false]";
        assert_eq!(recomputed(with("recompute = false", nothing), FIELDS), ["none"; 3]);
        let stale = mistakes(&with_file(
            "stale",
            &with("recompute = false", nothing),
            "#[recompute] embed: E, blocks: [B; 4], head: H",
        ));
        assert!(stale.contains("says already which layers of `embed` are recomputed"), "{stale}");
        let marked = "embed: E, #[recompute(2)] blocks: [B; 4], head: H";
        assert_eq!(recomputed(NET.to_owned(), marked), ["none", "first 2", "none"]);
        let said = mistakes(&with_file("both", &with("", each), marked));
        assert!(said.contains("says already which layers of `blocks` are recomputed"), "{said}");
        assert_eq!(mistake("few", &with("", "recompute = [true]"), FIELDS), "is contradictory about `blocks`");
        assert_eq!(mistake("one", &with("", "recompute = true"), FIELDS), "is contradictory about `blocks`");
        assert_eq!(mistake("list", &with("recompute = [true]", ""), FIELDS), "is contradictory about `embed`");
    }

    #[test]
    fn a_stale_file_says_which_layer_does_not_fit() {
        let said = |name, fields| mistake(name, NET, fields);
        assert_eq!(
            said("more", "embed: E, norm: N, blocks: [B; 4], head: H"),
            "says nothing about layer `norm` in this place"
        );
        assert_eq!(said("fewer", "embed: E, blocks: [B; 4]"), "places a layer `head` that `Net` does not have");
        assert_eq!(said("length", "embed: E, blocks: [B; 5], head: H"), "has 4 layers for `blocks`");
        assert_eq!(said("single", "embed: E, blocks: B, head: H"), "has 4 layers for `blocks`");
        assert_eq!(said("array", "embed: [E; 1], blocks: [B; 4], head: H"), "has one layer for `embed`");
    }

    #[test]
    fn the_first_layer_that_does_not_fit_speaks_for_those_after_it() {
        let said = |name, fields| mistake(name, NET, fields);
        let more = "says nothing about layer `norm` in this place";
        assert_eq!(said("first", "norm: N, embed: E, blocks: [B; 4], head: H"), more);
        assert_eq!(said("spread", "embed: E, norm: N, blocks: [B; 4], mid: M, others: Vec<O>, head: H"), more);
        assert_eq!(said("start", "embed: [E; 2], blocks: [B; 4], head: H"), "has one layer for `embed`");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_the_only_mistake() {
        for fields in [FIELDS, "#[repeat] blocks: [B; 4], others: Vec<O>"] {
            let all = mistakes(&format!(
                "#[pipeline(balance = \"no/such.toml\", schedule = gpipe)] struct Net {{ {fields} }}"
            ));
            assert!(all.contains("cannot read `no/such.toml`") && all.lines().count() == 1, "{all}");
        }
    }

    #[test]
    fn a_file_of_another_model_or_form_is_refused() {
        let changed = |name, from: &str, to: &str| mistake(name, &NET.replace(from, to), FIELDS);
        assert_eq!(changed("model", "\"Net\"", "\"Other\""), "was measured for `Other`, not for `Net`");
        assert_eq!(changed("format", "format = 1", "format = 2"), "has format 2, and this version reads format 1");
        assert!(changed("toml", "format = 1", "format 1").starts_with("is not a balance file"));
        for deep in [format!("{}0{}", "[".repeat(200), "]".repeat(200)), format!("1\na{} = 1", ".a".repeat(200))] {
            let deep = format!("format = 1\ndeep = {deep}");
            assert!(changed("toml", "format = 1", &deep).starts_with("is not a balance file: it is nested"));
        }
        assert_eq!(changed("gap", "stages = 3", "stages = 4"), "does not place the layers in order in 4 stages");
        assert_eq!(changed("order", "[0, 1, 1, 2]", "[0, 2, 1, 2]"), "does not place the layers in order in 3 stages");
        assert_eq!(changed("count", "count = 4", "count = 3"), "is contradictory about `blocks`");
        let endless = NET.replace("stages = 3", "stages = 9223372036854775807");
        let endless = endless.replace("count = 4", "count = 9223372036854775807");
        assert_eq!(mistake("endless", &endless, FIELDS), "is contradictory about `blocks`");
        let first = "name = \"embed\"\nstage = 0";
        assert_eq!(changed("first", first, &format!("{first}\ncount = 1")), "is contradictory about `embed`");
        let more = |name, text: &str| {
            changed(name, "[[layers]]\nname = \"embed\"", &format!("{text}\n[[layers]]\nname = \"embed\""))
        };
        assert_eq!(more("costs", "costs = [1, 2]"), "has 2 costs for 3 stages");
        assert_eq!(more("processes", "processes = [0]"), "has 1 processes for 3 stages");
        assert_eq!(
            more("no-process", "processes = [0, 2, 2]"),
            "has no stage in process 1, but one in a later process"
        );
        assert_eq!(changed("device", "cuda:0", "cuda"), "places stages on `cuda`, which is not a device");
    }

    #[test]
    fn annotations_beside_a_file_are_refused() {
        let beside = |name, fields| mistakes(&with_file(name, NET, fields));
        let said = beside("device", "#[device(\"cpu\")] embed: E, blocks: [B; 4], head: H");
        assert!(said.contains("`embed` is placed by `") && said.lines().count() == 1, "{said}");
        // The rules about arrays and about the first layer report nothing.
        let said = beside(
            "others",
            "#[stage] embed: E, #[devices(\"cpu\", \"mps\")] blocks: [B; 4], #[devices(\"cpu\")] head: H",
        );
        let placed = |line: &str| line.contains("` is placed by `");
        assert!(said.lines().all(placed) && said.lines().count() == 3, "{said}");
    }
}
