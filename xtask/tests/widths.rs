//! Checks that comments and pages have at most 100 columns, the examples of doc comments included.
//! Tables, links, diagrams and listings may be wider.

use std::fs;
use std::path::{Path, PathBuf};

const COLUMNS: usize = 100;

/// Folders without texts of the project: they are built, fetched or generated.
const SKIPPED: [&str; 6] = ["target", "book", "data", ".git", ".libtorch", "snapshots"];

#[test]
fn comments_and_pages_have_at_most_100_columns() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in the workspace");
    let mut files = Vec::new();
    collect(root, &mut files);
    assert!(files.len() > 400, "{} files were found", files.len());
    let mut wide = Vec::new();
    for file in files {
        let lines = match file.extension().and_then(|extension| extension.to_str()) {
            Some("md") if file.ends_with("rules.md") => continue,
            Some("md") => wide_lines(&read(&file), Some),
            Some("rs" | "h" | "cpp") => wide_lines(&read(&file), |line| comment(line, "//")),
            Some("py" | "toml") => wide_lines(&read(&file), |line| comment(line, "#")),
            _ => continue,
        };
        let shown = file.strip_prefix(root).unwrap_or(&file).display().to_string();
        wide.extend(lines.into_iter().map(|line| format!("\n{shown}:{line}")));
    }
    assert!(wide.is_empty(), "wider than {COLUMNS} columns:{}", wide.concat());
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the folder can be read") {
        let entry = entry.expect("the folder can be read");
        let name = entry.file_name();
        match entry.file_type().expect("the entry can be read") {
            kind if kind.is_dir() && !SKIPPED.iter().any(|skipped| name == *skipped) => collect(&entry.path(), files),
            kind if kind.is_file() => files.push(entry.path()),
            _ => {}
        }
    }
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// The text of a comment, if the line is one.
fn comment<'a>(line: &'a str, mark: &str) -> Option<&'a str> {
    let text = line.trim_start().strip_prefix(mark)?;
    Some(text.trim_start_matches(['/', '!', '#']).trim_start())
}

/// What a line belongs to.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    Prose,
    Example,
    Listing,
}

/// The numbers of the lines that are too wide, from 1. `text` removes the mark of a comment.
fn wide_lines<'a>(file: &'a str, text: impl Fn(&'a str) -> Option<&'a str>) -> Vec<usize> {
    let mut part = Part::Prose;
    let mut wide = Vec::new();
    for (index, line) in file.lines().enumerate() {
        let Some(said) = text(line) else {
            part = Part::Prose;
            continue;
        };
        if let Some(info) = said.trim_start().strip_prefix("```") {
            part = match part {
                Part::Prose if is_example(info, line) => Part::Example,
                Part::Prose => Part::Listing,
                _ => Part::Prose,
            };
            continue;
        }
        let may_be_wide = match part {
            Part::Prose => said.starts_with(['|', '#']) || holds_a_long_link(said),
            Part::Example => false,
            Part::Listing => true,
        };
        if line.chars().count() > COLUMNS && !may_be_wide {
            wide.push(index + 1);
        }
    }
    wide
}

/// Whether a fence opens an example that rustdoc compiles.
fn is_example(info: &str, line: &str) -> bool {
    let words = ["", "no_run", "compile_fail", "should_panic"];
    line.trim_start().starts_with("//") && info.split(',').all(|word| words.contains(&word.trim()))
}

/// A link cannot be broken.
fn holds_a_long_link(text: &str) -> bool {
    text.split_whitespace().any(|word| word.chars().count() > 60 && (word.contains("](") || word.contains("://")))
}

#[test]
fn what_may_be_wide_is_told_from_what_may_not() {
    let long = "word ".repeat(30);
    let page = format!(
        "{long}\n\n```text\n{long}\n```\n\n| {long} |\n[link](https://example.org/{})\n{long}\n",
        "x".repeat(99)
    );
    assert_eq!(wide_lines(&page, Some), [1, 9]);
    let code = format!("//! ok\n// {long}\nlet x = \"{long}\";\n/// ```text\n/// {long}\n/// ```\n    /// {long}\n");
    assert_eq!(wide_lines(&code, |line| comment(line, "//")), [2, 7]);
    let examples = format!("/// ```\n/// {long}\n/// ```\n/// ```no_run\n/// # {long}\n/// ```\n");
    assert_eq!(wide_lines(&examples, |line| comment(line, "//")), [2, 5]);
}
