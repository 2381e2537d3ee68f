//! The page of the book.

use std::fmt::Write;

use crate::case::Case;
use crate::peers::{PEERS, Peers, Reaction};

const HEAD: &str = "\
# The rules

Every mistake that the compiler refuses, with the lines that it points at and what it says. A rule is the name of a file in `ui-tests/cases`, which shows the
whole struct and the whole message, and, where the macro finds it, of a function in `pipe-macros/src/pipeline/check`. What only types can show is found by rustc.
All mistakes of a struct are reported in one compile, in source order; mistakes of types are reported once there are no others.

The last three columns say what others do with the same mistake: when they notice, and what they say then. *Never* means that a
step ends without an error; the words after it say what becomes of its numbers. They come from running `ui-tests/peers/mistakes.py`, whose first lines
say how: torchgpipe 0.0.7 on torch 2.11, the last `torch.distributed.pipeline.sync` (torch 2.3.1), and `torch.distributed.pipelining` of torch 2.11, on a CPU.

This page is written by `cargo xtask test --bless` from the files in `ui-tests/cases`; a test fails if it differs from them.
";

/// The whole page.
pub fn page(classes: &[(&str, Vec<Case>)], peers: &Peers) -> String {
    let mut page = HEAD.to_owned();
    for (title, cases) in classes {
        let names: Vec<&str> = PEERS.iter().map(|(_, name)| *name).collect();
        let _ = write!(page, "\n## {title}\n\n| rule | written | the compiler says | {} |\n", names.join(" | "));
        let _ = writeln!(page, "|{}", "---|".repeat(3 + names.len()));
        for case in cases {
            let _ = writeln!(page, "| {} |", row(case, peers).join(" | "));
        }
    }
    page
}

fn row(case: &Case, peers: &Peers) -> Vec<String> {
    let Case { rule, prose, message, help, example } = case;
    let name = rule.split_once('/').map_or(rule.as_str(), |(_, name)| name);
    let example: Vec<String> = example.iter().map(|line| format!("`{}`", cell(line))).collect();
    let help = help.as_ref().map_or_else(String::new, |help| format!("<br>*help:* {}", cell(help)));
    let reactions = PEERS.iter().map(|(peer, _)| reaction(peers.reaction(rule, peer)));
    let mut row = vec![
        format!("[{name}](../ui-tests/cases/{rule}.rs): {}", cell(prose)),
        example.join("<br>"),
        format!("{}{help}", cell(message)),
    ];
    row.extend(reactions);
    row
}

fn reaction(reaction: Option<&Reaction>) -> String {
    match reaction {
        Some(Reaction { when, says }) if when == "never" => format!("*never*: {}", cell(says)),
        Some(Reaction { when, says }) => format!("*{when}*: `` {} ``", cell(says)),
        None => "no counterpart".to_owned(),
    }
}

/// Text that does not end a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}
