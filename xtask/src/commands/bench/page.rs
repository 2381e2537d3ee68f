//! Writes the tables into the book.

use std::fs;

use anyhow::Context;

use super::figures::Figure;
use super::table::Table;
use crate::tools::checkout::Checkout;

/// Puts a figure's table between its marks in its page.
pub fn write(checkout: &Checkout, figure: Figure, table: &Table) -> anyhow::Result<()> {
    let file = figure.page(checkout);
    let page = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let page = replace(&page, figure.name(), &table.to_string()).with_context(|| {
        let [begin, end] = marks(figure.name());
        format!("{} has no place for this table: put the lines `{begin}` and `{end}` into it", file.display())
    })?;
    fs::write(&file, page).with_context(|| format!("cannot write {}", file.display()))
}

fn marks(name: &str) -> [String; 2] {
    [format!("<!-- bench {name} -->"), format!("<!-- end of {name} -->")]
}

/// The page with the text between the marks replaced; `None` if a mark is missing.
fn replace(page: &str, name: &str, text: &str) -> Option<String> {
    let [begin, end] = marks(name);
    let (before, rest) = page.split_once(&begin)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!("{before}{begin}\n\n{text}\n{end}{after}"))
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn only_what_lies_between_the_marks_is_replaced() {
        let page = "a\n<!-- bench x -->\nold\n<!-- end of x -->\nb\n";
        let page = replace(page, "x", "new\n").unwrap();
        assert_eq!(page, "a\n<!-- bench x -->\n\nnew\n\n<!-- end of x -->\nb\n");
        assert_eq!(replace(&page, "x", "new\n").unwrap(), page);
        assert_eq!(replace(&page, "y", "new\n"), None);
    }

    #[test]
    fn a_page_has_a_place_for_each_figure() {
        for figure in Figure::value_variants() {
            let page = fs::read_to_string(figure.page(&Checkout::find())).unwrap();
            assert!(replace(&page, figure.name(), "").is_some(), "{figure:?}");
        }
    }
}
