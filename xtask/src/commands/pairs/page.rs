//! Writes the table in `docs/libtorch.md`.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;

use super::Trial;
use crate::tools::checkout::Checkout;

/// Writes what passed, with today's date, into the row of this pair.
pub fn write(checkout: &Checkout, trial: &Trial, outcome: &str, took: Duration) -> anyhow::Result<()> {
    let file = checkout.root.join("docs/libtorch.md");
    let page = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let minutes = took.as_secs().div_ceil(60);
    let page = replace(&page, &start(trial), &format!(" {outcome} | {} | {minutes} min |", today()?))
        .with_context(|| format!("{} has no row that starts with `{}`", file.display(), start(trial)))?;
    fs::write(&file, page).with_context(|| format!("cannot write {}", file.display()))
}

/// The start of the pair's row.
fn start(trial: &Trial) -> String {
    let marked = if trial.is_pair() { "" } else { " (version check bypassed)" };
    format!("| {}{marked} | {} |", trial.pair.tch, trial.wheel.version)
}

/// The page with the rest of this row replaced; `None` if it has no such row.
fn replace(page: &str, start: &str, rest: &str) -> Option<String> {
    let line = format!("\n{start}");
    let from = page.find(&line)? + line.len();
    let to = from + page[from..].find('\n')?;
    Some(format!("{}{rest}{}", &page[..from], &page[to..]))
}

fn today() -> anyhow::Result<String> {
    let output = Command::new("date").arg("+%F").output().context("cannot start date")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_row_of_the_pair_is_replaced() {
        let page = "\n| 1 | 2 | old |\n| 1 | 3 | x |\n";
        assert_eq!(replace(page, "| 1 | 2 |", " new |").unwrap(), "\n| 1 | 2 | new |\n| 1 | 3 | x |\n");
        assert_eq!(replace(page, "| 2 |", ""), None);
    }

    #[test]
    fn the_page_has_a_row_for_each_pair() {
        let page = fs::read_to_string(Checkout::find().root.join("docs/libtorch.md")).unwrap();
        for trial in Trial::all() {
            assert!(page.contains(&start(&trial)), "{}", start(&trial));
        }
    }
}
