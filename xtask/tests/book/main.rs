//! Checks the book: its links lead somewhere, its table of contents lists every page, and its
//! listings equal the files that they show.
//!
//! A listing is a fenced block after a mark. The mark names a file, a part of a file between two
//! anchors (lines with `ANCHOR: name` and `ANCHOR_END: name`), or some of its lines:
//!
//! ```text
//! <!-- listing examples/src/bin/skips.rs -->
//! <!-- listing examples/src/bin/skips.rs#model -->
//! <!-- listing ui-tests/cases/skips/stashed_once.rs#L6-L11 -->
//! ```
//!
//! `UPDATE_EXPECT=1 cargo test -p xtask --test book` rewrites the listings.

mod links;
mod listings;
mod page;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use links::Fault;
use page::{Page, pages, root};

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let faults: Vec<Fault> = pages().iter().flat_map(links::faults).collect();
    assert!(faults.is_empty(), "{}", faults.iter().map(|fault| format!("\n{fault}")).collect::<String>());
}

#[test]
fn the_table_of_contents_lists_every_page_once() {
    let summary = Page::read("docs/SUMMARY.md");
    let listed: Vec<String> = links::targets(&summary.text).into_iter().map(|link| format!("docs/{link}")).collect();
    let once: BTreeSet<&str> = listed.iter().map(String::as_str).collect();
    assert_eq!(once.len(), listed.len(), "a page is listed twice: {listed:?}");
    let pages = pages();
    let wanted = pages.iter().map(|page| page.path.as_str());
    let wanted: BTreeSet<&str> =
        wanted.filter(|path| path.starts_with("docs/") && *path != "docs/SUMMARY.md").collect();
    assert_eq!(once, wanted);
}

#[test]
fn every_listing_is_the_file_that_it_shows() {
    let faults: Vec<String> = pages().iter().flat_map(listings::check).collect();
    assert!(faults.is_empty(), "{faults:#?}\n`UPDATE_EXPECT=1 cargo test -p xtask --test book` writes them again");
}

/// Each page of the tutorial is about one program, and each program is shown.
#[test]
fn each_page_of_the_tutorial_shows_one_example() {
    let mut shown = Vec::new();
    for page in pages().iter().filter(|page| page.path.starts_with("docs/tutorial/")) {
        let listings = listings::marks(&page.text);
        let programs: BTreeSet<(String, String)> = listings.iter().map(|mark| program(&mark.file)).collect();
        let [(program, command)] = &programs.into_iter().collect::<Vec<_>>()[..] else {
            panic!("{} shows several programs", page.path)
        };
        assert!(page.text.contains(command), "{} does not say `{command}`", page.path);
        shown.push(program.clone());
    }
    shown.sort();
    let list = |folder: &str| fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path());
    let files = list("examples/src/bin").filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let packages = list("examples").filter(|path| path.join("Cargo.toml").is_file());
    let examples = files.chain(packages).map(|path| path.strip_prefix(root()).unwrap().display().to_string());
    let mut examples: Vec<String> = examples.collect();
    examples.sort();
    assert_eq!(shown, examples);
}

/// The program that a file belongs to, and the command that runs it: a file of `examples/src/bin`,
/// or a package of its own, which has a command of `cargo xtask`.
fn program(file: &str) -> (String, String) {
    let path = Path::new(file);
    if path.starts_with("examples/src/bin") {
        let name = path.file_stem().unwrap().to_string_lossy();
        return (file.to_owned(), format!("cargo run -p pipe-examples --bin {name}\n"));
    }
    let name = path.strip_prefix("examples").unwrap().iter().next().unwrap().to_string_lossy();
    (format!("examples/{name}"), format!("cargo xtask {name}\n"))
}

/// The README shows some rows of the tables that `cargo xtask bench` writes.
#[test]
fn the_numbers_of_the_readme_are_those_of_the_benchmarks() {
    let (readme, performance) = (Page::read("README.md"), Page::read("docs/performance.md"));
    let section = readme.text.split_once("\n## Three numbers\n").expect("the README has the section").1;
    let rows: Vec<&str> = section.lines().skip_while(|line| !line.starts_with("|---")).skip(1).collect();
    let rows = rows.iter().map_while(|row| row.strip_prefix("| "));
    let cells = |row: &str| row.split(" |").map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let mut count = 0;
    for row in rows {
        let [what, ours, theirs, ratio, command, ..] = &cells(row)[..] else { panic!("{row}") };
        let start = format!("| {what} ");
        let measured = performance.text.lines().find(|line| line.starts_with(&start));
        let measured = measured.unwrap_or_else(|| panic!("docs/performance.md has no row `{what}`"));
        let found = cells(measured.trim_start_matches("| "));
        assert!([ours, theirs].iter().all(|cell| found.contains(cell)), "{row}\n{measured}");
        assert!(found.iter().any(|cell| cell.split(' ').next() == Some(ratio)), "{row}\n{measured}");
        assert!(performance.text.contains(command.as_str()), "{command}");
        count += 1;
    }
    assert_eq!(count, 3);
}

/// Users see the same example first in both places.
#[test]
fn the_page_of_the_crate_shows_the_readmes_example() {
    let readme = Page::read("README.md").text;
    let example = readme.split_once("```rust\n").and_then(|(_, rest)| rest.split_once("```")).expect("an example").0;
    let library = fs::read_to_string(root().join("pipe-runtime/src/lib.rs")).unwrap();
    let shown: String = library
        .lines()
        .map_while(|line| line.strip_prefix("//!"))
        .fold(String::new(), |text, line| text + line.strip_prefix(' ').unwrap_or(line) + "\n");
    assert!(shown.contains(example), "pipe-runtime/src/lib.rs shows another example than the README");
}
