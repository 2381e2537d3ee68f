//! Links between pages.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use super::page::{Page, prose, root};

/// A link that leads nowhere.
pub struct Fault {
    place: String,
    link: String,
    why: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: `{}`: {}", self.place, self.link, self.why)
    }
}

/// The faults of a page's links.
pub fn faults(page: &Page) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (number, line) in prose(&page.text) {
        for link in targets(line) {
            if let Err(why) = check(page, &link) {
                faults.push(Fault { place: format!("{}:{number}", page.path), link, why });
            }
        }
    }
    faults
}

fn check(page: &Page, link: &str) -> Result<(), String> {
    if ["https://", "http://", "mailto:"].iter().any(|start| link.starts_with(start)) {
        return Ok(());
    }
    let (file, heading) = link.split_once('#').map_or((link, None), |(file, heading)| (file, Some(heading)));
    let path = if file.is_empty() { PathBuf::from(&page.path) } else { resolved(&page.folder().join(file)) };
    if !root().join(&path).exists() {
        return Err(format!("there is no `{}`", path.display()));
    }
    let is_page = path.extension().is_some_and(|extension| extension == "md");
    let is_in_book = |path: &Path| path.starts_with("docs");
    if is_page && is_in_book(Path::new(&page.path)) && !is_in_book(&path) {
        return Err("mdBook makes a link to `.html` of it, and it is not a page of the book".to_owned());
    }
    if is_page && page.path != "docs/SUMMARY.md" && is_in_book(Path::new(&page.path)) && path.ends_with("README.md") {
        return Err("mdBook calls that page `index.html`: link to another one".to_owned());
    }
    let Some(heading) = heading.filter(|_| is_page) else { return Ok(()) };
    let target = Page::read(&path.to_string_lossy());
    match headings(&target.text).iter().any(|known| known == heading) {
        true => Ok(()),
        false => Err(format!("`{}` has no heading `{heading}`", path.display())),
    }
}

/// The path without `.` and `..`.
fn resolved(path: &Path) -> PathBuf {
    let mut result = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                result.pop();
            }
            Component::CurDir => {}
            part => result.push(part),
        }
    }
    result
}

/// The targets of the links and pictures in a text: the parts in `](..)`, outside of code.
pub fn targets(text: &str) -> Vec<String> {
    let text = without_code(text);
    let mut targets = Vec::new();
    for after in text.split("](").skip(1) {
        let mut depth = 1;
        let is_inside = |&letter: &char| {
            depth += i32::from(letter == '(') - i32::from(letter == ')');
            depth > 0 && letter != '\n'
        };
        targets.push(after.chars().take_while(is_inside).collect());
    }
    targets
}

/// The text without code spans.
fn without_code(text: &str) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some(start) = rest.find('`') {
        let ticks = rest[start..].chars().take_while(|&letter| letter == '`').count();
        let fence = "`".repeat(ticks);
        result.push_str(&rest[..start]);
        let after = &rest[start + ticks..];
        rest = match after.find(&fence) {
            Some(end) => &after[end + ticks..],
            None => after,
        };
    }
    result + rest
}

/// The names that viewers give to the headings of a page: in lower case, with hyphens for spaces,
/// and without other punctuation. Equal names are numbered.
fn headings(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for (_, line) in prose(text) {
        let Some(heading) = line.strip_prefix('#').map(|rest| rest.trim_start_matches('#')) else { continue };
        if !heading.starts_with(' ') {
            continue;
        }
        let kept = heading.trim().to_lowercase();
        let kept = kept.chars().filter(|&letter| letter.is_alphanumeric() || [' ', '-', '_'].contains(&letter));
        let name: String = kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect();
        let same = |other: &&String| other.strip_prefix(&name).is_some_and(|rest| rest.is_empty());
        match found.iter().filter(same).count() {
            0 => found.push(name),
            count => found.push(format!("{name}-{count}")),
        }
    }
    found
}

#[test]
fn links_are_found_outside_of_code() {
    let text = "[a](b.md#c), `x[0](y)`, [`d`](e(f).rs) and ![g](h.svg)";
    assert_eq!(targets(text), ["b.md#c", "e(f).rs", "h.svg"]);
}

#[test]
fn headings_have_the_names_that_viewers_give_them() {
    let text = "# PyTorch's files\n\n```text\n# not one\n```\n## `zb_h1`\n### What it is, and why\n";
    assert_eq!(headings(text), ["pytorchs-files", "zb_h1", "what-it-is-and-why"]);
}
