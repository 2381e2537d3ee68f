//! One case: the rule in prose, its first mistake, and the compiler's message.

use std::fs;
use std::path::Path;

/// A rule with what its case shows.
pub struct Case {
    /// `class/rule`
    pub rule: String,
    pub prose: String,
    pub message: String,
    /// What the compiler says beside the message, a line each: `^ ..` at the marks, and `help: ..`.
    pub remarks: Vec<String>,
    /// Notes of the trait that a type lacks, the same for all types: `note: ..`.
    pub notes: Vec<String>,
    /// Source lines that the message points at.
    pub example: Vec<String>,
}

impl Case {
    pub fn read(class: &str, file: &Path) -> Self {
        let name = file.file_stem().expect("a case has a name").to_string_lossy();
        let source = fs::read_to_string(file).expect("the case can be read");
        let expected = fs::read_to_string(file.with_extension("stderr")).expect("the case has been blessed");
        let mut blocks = expected.split("\n\nerror").map(Block::read);
        let first = blocks.next().expect("a case has an error");
        // An error that follows without a help of its own is another place of the same mistake.
        let others = blocks.take_while(|block| block.help.is_none() && first.help.is_some());
        let mut lines: Vec<(usize, String)> = others.flat_map(|block| block.lines).collect();
        lines.extend(first.lines);
        lines.sort();
        lines.dedup();
        Self {
            rule: format!("{class}/{name}"),
            prose: prose(&source),
            message: first.message,
            remarks: first.remarks,
            notes: first.notes,
            example: lines.into_iter().map(|(_, line)| line).collect(),
        }
    }
}

/// Reads the inner doc comment at the top of the source.
fn prose(source: &str) -> String {
    let lines = source.lines().map_while(|line| line.strip_prefix("//!"));
    lines.map(str::trim).collect::<Vec<_>>().join(" ")
}

/// One error of a compiler's output.
struct Block {
    message: String,
    /// The help of this crate, which is part of the message.
    help: Option<String>,
    remarks: Vec<String>,
    notes: Vec<String>,
    lines: Vec<(usize, String)>,
}

impl Block {
    fn read(text: &str) -> Self {
        let first = text.lines().next().unwrap_or_default();
        let message = first.split_once(": ").map_or(first, |(_, message)| message);
        // A warning of the macro is a use of a deprecated constant, and a check in a constant
        // panics.
        let message = match message.strip_prefix("use of deprecated constant `") {
            Some(warning) => warning.split_once("`: ").map_or(warning, |(_, message)| message),
            None => message.strip_prefix("evaluation panicked: ").unwrap_or(message),
        };
        let above = text.lines().take_while(|line| !line.trim_start().starts_with("-->"));
        let help = above.filter_map(|line| line.trim_start().strip_prefix("help: ")).next();
        let mut remarks: Vec<String> = help.map(|help| format!("help: {help}")).into_iter().collect();
        remarks.extend(labels(text));
        remarks.extend(nearest(text));
        let (message, help) = (message.to_owned(), help.map(str::to_owned));
        Self { message, help, remarks, notes: notes(text), lines: marked(text) }
    }
}

/// The lines of the first excerpt of the source. Later ones explain it.
fn excerpt(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.lines().skip_while(|line| !line.trim_start().starts_with("-->"));
    lines.skip(1).take_while(|line| !line.starts_with("note:") && !line.starts_with("help:"))
}

/// Finds the source lines with a `^` under them, with their numbers.
fn marked(text: &str) -> Vec<(usize, String)> {
    let pairs = excerpt(text).zip(excerpt(text).skip(1));
    pairs.filter(|(_, below)| below.contains('^')).filter_map(|(line, _)| numbered(line)).collect()
}

/// Words of rustc about generated code, or about its own settings.
const ABOUT_THE_COMPILER: [&str; 7] = [
    "this error originates in",
    "`#[warn(",
    "in this attribute macro expansion",
    "required by a bound introduced by this call",
    "evaluation of `",
    "the full name for the type",
    "the full type name",
];

fn is_for_readers(remark: &str) -> bool {
    !remark.is_empty() && !ABOUT_THE_COMPILER.iter().any(|words| remark.starts_with(words))
}

/// Reads what stands at the marks, or below them: `^^^^ this layer gives ..`
fn labels(text: &str) -> Vec<String> {
    let mut labels = Vec::new();
    let mut is_marked = false;
    for line in excerpt(text) {
        match line.trim_start().strip_prefix('|') {
            Some(below) => {
                is_marked |= below.contains('^');
                let label = below.trim_start_matches([' ', '|', '^', '-', '_']).trim_end();
                labels.extend((is_marked && is_for_readers(label)).then(|| format!("^ {label}")));
            }
            // A line of the source.
            None => is_marked = false,
        }
    }
    labels
}

/// Reads the notes below the excerpt.
fn notes(text: &str) -> Vec<String> {
    let notes = text.lines().filter_map(|line| line.trim_start().strip_prefix("= note: "));
    notes.filter(|note| is_for_readers(note)).map(|note| format!("note: {note}")).collect()
}

/// Reads which implementation there is instead of the missing one, and how it differs.
fn nearest(text: &str) -> Vec<String> {
    // rustc writes this in two lines.
    let pairs = text.lines().zip(text.lines().skip(1));
    let others = pairs.filter(|(_, below)| below.trim_start().starts_with("but trait `"));
    let others = others.map(|(line, below)| format!("{line}, {}", below.trim_start()));
    let expected = text.lines().filter_map(|line| line.trim_start().strip_prefix("= "));
    let expected = expected.filter(|line| line.starts_with("help: for that trait implementation, "));
    others.chain(expected.map(str::to_owned)).collect()
}

/// Reads a line such as `12 |     #[pop(a)]`.
fn numbered(line: &str) -> Option<(usize, String)> {
    let (number, source) = line.split_once('|')?;
    Some((number.trim().parse().ok()?, source.trim().to_owned()))
}
