//! Listings: blocks of a page that show a file.

use std::{env, fs};

use super::page::{Page, root};

const MARK: &str = "<!-- listing ";

/// A mark: the part of a file that a listing shows.
#[derive(Debug)]
pub struct Mark {
    /// The path of the file from the root.
    pub file: String,
    part: Option<String>,
    /// The line of the page, from 0.
    line: usize,
}

/// The marks of a page, in order.
pub fn marks(text: &str) -> Vec<Mark> {
    let mark = |(line, text): (usize, &str)| {
        let what = text.strip_prefix(MARK)?.strip_suffix(" -->")?;
        let (file, part) = what.split_once('#').map_or((what, None), |(file, part)| (file, Some(part.to_owned())));
        Some(Mark { file: file.to_owned(), part, line })
    };
    text.lines().enumerate().filter_map(mark).collect()
}

/// Compares the listings of a page with the files, or rewrites them. Returns the differences.
pub fn check(page: &Page) -> Vec<String> {
    let mut faults = Vec::new();
    let mut lines: Vec<String> = page.text.lines().map(str::to_owned).collect();
    // This starts from the last mark, so that the lines of the others stay where they are.
    for mark in marks(&page.text).iter().rev() {
        let place = format!("{}:{}", page.path, mark.line + 1);
        let wanted = match shown(mark) {
            Ok(wanted) => wanted,
            Err(why) => {
                faults.push(format!("{place}: {why}"));
                continue;
            }
        };
        let Some([begin, end]) = block(&lines, mark.line) else {
            faults.push(format!("{place}: there is no fenced block after the mark"));
            continue;
        };
        if lines[begin..end] != wanted {
            faults.push(format!("{place}: differs from {}", mark.file));
            lines.splice(begin..end, wanted);
        }
    }
    if env::var_os("UPDATE_EXPECT").is_some() && !faults.is_empty() {
        let text = lines.join("\n") + "\n";
        if text != page.text {
            fs::write(root().join(&page.path), text).expect("the page can be written");
        }
        faults.retain(|fault| !fault.contains(": differs from "));
    }
    faults
}

/// The lines between the fences after line `mark`, which may be preceded by an empty one.
fn block(lines: &[String], mark: usize) -> Option<[usize; 2]> {
    let fence = (mark + 1..lines.len()).find(|&line| !lines[line].is_empty())?;
    if !lines[fence].starts_with("```") {
        return None;
    }
    let end = (fence + 1..lines.len()).find(|&line| lines[line] == "```")?;
    Some([fence + 1, end])
}

/// The lines of the file that the mark names, without the marks of anchors and common indentation.
fn shown(mark: &Mark) -> Result<Vec<String>, String> {
    let Mark { file, part, .. } = mark;
    let text = fs::read_to_string(root().join(file)).map_err(|error| format!("{file}: {error}"))?;
    let lines: Vec<&str> = text.trim_end().lines().collect();
    let part = match part.as_deref() {
        None => &lines[..],
        Some(part) => match range(part) {
            Some((first, last)) => {
                lines.get(first - 1..last).ok_or_else(|| format!("{file} has no lines {first} to {last}"))?
            }
            None => anchored(&lines, part).ok_or_else(|| format!("{file} has no anchor `{part}`"))?,
        },
    };
    let is_shown = |line: &&&str| !line.trim_start().starts_with("// ANCHOR");
    let part: Vec<&str> = part.iter().filter(is_shown).copied().collect();
    let indentation = |line: &&str| line.len() - line.trim_start().len();
    let common = part.iter().filter(|line| !line.trim().is_empty()).map(indentation).min().unwrap_or(0);
    Ok(part.iter().map(|line| line.get(common..).unwrap_or_default().to_owned()).collect())
}

/// Parses `L6-L11`.
fn range(part: &str) -> Option<(usize, usize)> {
    let (first, last) = part.strip_prefix('L')?.split_once("-L")?;
    let range = (first.parse().ok()?, last.parse().ok()?);
    (range.0 > 0 && range.0 <= range.1).then_some(range)
}

fn anchored<'a>(lines: &'a [&'a str], name: &str) -> Option<&'a [&'a str]> {
    let find = |word: &str| lines.iter().position(|line| line.trim() == format!("// {word}: {name}"));
    let (begin, end) = (find("ANCHOR")?, find("ANCHOR_END")?);
    lines.get(begin + 1..end)
}

#[test]
fn a_listing_is_found_and_read() {
    let text = "text\n<!-- listing a/b.rs#L2-L3 -->\n\n```rust\nold\n```\n";
    let [mark] = &marks(text)[..] else { panic!("one mark") };
    assert_eq!((mark.file.as_str(), mark.part.as_deref(), mark.line), ("a/b.rs", Some("L2-L3"), 1));
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    assert_eq!(block(&lines, mark.line), Some([4, 5]));
    assert_eq!((range("L2-L3"), range("L3-L2"), range("model")), (Some((2, 3)), None, None));
    let file = ["a", "    // ANCHOR: x", "    b", "    // ANCHOR_END: x"];
    assert_eq!(anchored(&file, "x"), Some(&["    b"][..]));
}
