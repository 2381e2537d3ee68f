//! Text of the page: a section for each rule.

use std::collections::HashMap;
use std::fmt::Write;

use crate::case::Case;
use crate::peers::{PEERS, Peers, Reaction};

const HEAD: &str = "\
# The rules

This page lists every mistake that the compiler refuses: the lines that it points at, and what it
says: the message, what stands at the marks (`^`), and its help and notes. All mistakes of a struct
are reported in one compile, in source order. Mistakes of types are reported once there are no
others.

A rule is the name of a file in `ui-tests/cases`, which shows the whole struct. The `.stderr` file
beside it shows the whole message. If the macro finds the mistake, the rule is also the name of a
function in `pipe-macros/src/pipeline/check`. Mistakes that only types can show are found by rustc.

Each section ends with what others do with the same mistake: when they notice it, and what they say
then. *Never* means that a step ends without an error; the words after it say what becomes of its
numbers. The answers come from running `ui-tests/peers/mistakes.py`, whose first lines say how:
torchgpipe 0.0.7 on torch 2.11, the last `torch.distributed.pipeline.sync` (torch 2.3.1), and
`torch.distributed.pipelining` of torch 2.11, on a CPU.

`cargo xtask test --bless` writes this page from the files in `ui-tests/cases`. A test fails if the
page differs from them.
";

/// Maximum width of the page in columns, except for tables and links.
const COLUMNS: usize = 100;

/// Writes the whole page.
pub fn page(classes: &[(&str, Vec<Case>)], peers: &Peers) -> String {
    let mut page = HEAD.to_owned();
    page.push('\n');
    for (title, cases) in classes {
        let _ = writeln!(page, "* [{title}](#{}): {} rules", anchor(title), cases.len());
    }
    let mut shown = Shown::new();
    for (title, cases) in classes {
        let _ = write!(page, "\n## {title}\n");
        for case in cases {
            page.push_str(&section(case, peers, &mut shown));
        }
    }
    page
}

/// Notes that stand on the page, and the rule where they do. Many messages have the same.
type Shown<'c> = HashMap<&'c [String], &'c str>;

fn section<'c>(case: &'c Case, peers: &Peers, shown: &mut Shown<'c>) -> String {
    let Case { rule, prose, message, remarks, notes, example } = case;
    let name = rule.split_once('/').map_or(rule.as_str(), |(_, name)| name);
    let mut says = wrapped(message, "", "    ");
    for remark in remarks {
        says.push_str(&wrapped(remark, "", "    "));
    }
    let mut elsewhere = String::new();
    match shown.get(notes.as_slice()).filter(|_| notes.len() > 1) {
        Some(first) => elsewhere = format!("Its notes are those of [{first}](#{first}).\n\n"),
        None => {
            says.extend(notes.iter().map(|note| wrapped(note, "", "    ")));
            shown.insert(notes, name);
        }
    }
    format!(
        "\n### {name}\n\n{}\n```rust,ignore\n{}\n```\n\n```text\n{says}```\n\n{elsewhere}[the struct](../ui-tests/cases/{rule}.rs), \
         [the message](../ui-tests/cases/{rule}.stderr)\n\n{}",
        wrapped(prose, "", ""),
        example.join("\n"),
        others(rule, peers),
    )
}

/// Writes a table of the peers' reactions, or a line that says that none has a counterpart.
fn others(rule: &str, peers: &Peers) -> String {
    let row = |&(peer, name): &(&str, &str)| {
        let Reaction { when, says } = peers.reaction(rule, peer)?;
        let says = if when == "never" { cell(says) } else { format!("`` {} ``", cell(says)) };
        Some(format!("| {name} | *{when}* | {says} |\n"))
    };
    let rows: Vec<Option<String>> = PEERS.iter().map(row).collect();
    if rows.iter().all(Option::is_none) {
        return "The others have no counterpart.\n".to_owned();
    }
    let missing = |(_, name): &(&str, &str)| format!("| {name} | no counterpart | |\n");
    let rows: String = rows.into_iter().zip(&PEERS).map(|(row, peer)| row.unwrap_or_else(|| missing(peer))).collect();
    format!("| elsewhere | noticed | what it says |\n|---|---|---|\n{rows}")
}

/// Wraps text to [`COLUMNS`]. The first line starts with `first`, the others with `rest`.
fn wrapped(text: &str, first: &str, rest: &str) -> String {
    let mut lines = String::new();
    let mut line = first.to_owned();
    for word in text.split_whitespace() {
        let starts = line.trim().is_empty();
        if !starts && line.chars().count() + 1 + word.chars().count() > COLUMNS {
            let _ = writeln!(lines, "{line}");
            line = rest.to_owned();
        } else if !starts {
            line.push(' ');
        }
        line.push_str(word);
    }
    let _ = writeln!(lines, "{line}");
    lines
}

/// Anchor that Markdown viewers give to a heading.
fn anchor(heading: &str) -> String {
    heading.to_lowercase().replace(' ', "-")
}

/// Escapes text so that it does not end a table cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}
