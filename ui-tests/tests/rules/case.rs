//! One case: the rule in prose, its first mistake, and the compiler's message.

use std::fs;
use std::path::Path;

/// A rule with what its case shows.
pub struct Case {
    /// `class/rule`
    pub rule: String,
    pub prose: String,
    pub message: String,
    pub help: Option<String>,
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
            help: first.help,
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
    help: Option<String>,
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
        Self { message: message.to_owned(), help: help.map(str::to_owned), lines: marked(text) }
    }
}

/// Finds the source lines with a `^` under them, with their numbers. Only the first excerpt is
/// read, because later ones explain it.
fn marked(text: &str) -> Vec<(usize, String)> {
    let excerpt = || text.lines().skip_while(|line| !line.trim_start().starts_with("-->"));
    let excerpt = excerpt().skip(1).take_while(|line| !line.starts_with("note:") && !line.starts_with("help:"));
    let excerpt: Vec<&str> = excerpt.collect();
    let pairs = excerpt.iter().zip(excerpt.iter().skip(1));
    pairs.filter(|(_, below)| below.contains('^')).filter_map(|(line, _)| numbered(line)).collect()
}

/// Reads a line such as `12 |     #[pop(a)]`.
fn numbered(line: &str) -> Option<(usize, String)> {
    let (number, source) = line.split_once('|')?;
    Some((number.trim().parse().ok()?, source.trim().to_owned()))
}
