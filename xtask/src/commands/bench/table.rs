//! The table of a figure, as it is printed and written.

use std::fmt;

use super::spread::Spread;

/// The rows of a figure. Prints as a Markdown table with padded columns.
#[derive(Debug)]
pub struct Table {
    /// What is measured.
    pub ours: &'static str,
    /// The name of the column of what it is compared with.
    pub theirs: &'static str,
    /// The name of the last number, such as `theirs / ours`.
    pub figure: &'static str,
    pub rows: Vec<Row>,
}

/// One comparison.
#[derive(Debug)]
pub struct Row {
    pub case: String,
    pub ours: String,
    pub theirs: String,
    pub figure: Spread,
    /// The bar; `None` for a row without one.
    pub bar: Option<Bar>,
}

/// The bar of a figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bar {
    AtLeast(f64),
    AtMost(f64),
    /// At most so much, or not to be told from 1: within the quartiles.
    AtMostOrEqual(f64),
    /// At most so much below or above 1.
    Within(f64),
}

impl Row {
    /// Whether the median reaches the bar, if there is one.
    pub fn is_met(&self) -> Option<bool> {
        self.bar.map(|bar| match bar {
            Bar::AtLeast(least) => self.figure.median >= least,
            Bar::AtMost(most) => self.figure.median <= most,
            Bar::AtMostOrEqual(most) => self.figure.median <= most || self.figure.low <= 1.,
            Bar::Within(share) => (self.figure.median - 1.).abs() <= share,
        })
    }

    fn cells(&self) -> [String; 6] {
        let bar = self.bar.map_or_else(String::new, |bar| bar.to_string());
        let met = self.is_met().map_or("", |met| if met { "yes" } else { "**no**" });
        [self.case.clone(), bar, self.ours.clone(), self.theirs.clone(), self.figure.to_string(), met.to_owned()]
    }
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, "≥ {least}"),
            Self::AtMost(most) => write!(f, "≤ {most}"),
            Self::AtMostOrEqual(most) => write!(f, "≤ {most}, or equal"),
            Self::Within(share) => write!(f, "1 ± {share}"),
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["", "bar", self.ours, self.theirs, self.figure, "met"].map(str::to_owned);
        let lines: Vec<_> = std::iter::once(head).chain(self.rows.iter().map(Row::cells)).collect();
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths: [usize; 6] = std::array::from_fn(width);
        for (number, line) in lines.iter().enumerate() {
            for (cell, width) in line.iter().zip(widths) {
                write!(f, "| {cell:width$} ")?;
            }
            writeln!(f, "|")?;
            if number == 0 {
                widths.iter().try_for_each(|width| write!(f, "|{}", "-".repeat(width + 2)))?;
                writeln!(f, "|")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(median: f64, bar: Option<Bar>) -> Row {
        let (ours, theirs) = ("1 ms".into(), "2 ms".into());
        Row { case: "case".into(), ours, theirs, figure: Spread::exact(median), bar }
    }

    #[test]
    fn the_median_meets_the_bar() {
        assert_eq!(row(2., Some(Bar::AtLeast(2.))).is_met(), Some(true));
        assert_eq!(row(1.9, Some(Bar::AtLeast(2.))).is_met(), Some(false));
        assert_eq!(row(5.1, Some(Bar::AtMost(5.))).is_met(), Some(false));
        assert_eq!(
            [0.94, 0.96, 1.04, 1.06].map(|ratio| row(ratio, Some(Bar::Within(0.05))).is_met()),
            [false, true, true, false].map(Some)
        );
        assert_eq!(row(1.02, Some(Bar::AtMostOrEqual(1.03))).is_met(), Some(true));
        assert_eq!(row(1.04, Some(Bar::AtMostOrEqual(1.03))).is_met(), Some(false));
        assert_eq!(row(5.1, None).is_met(), None);
    }

    #[test]
    fn columns_are_aligned() {
        let rows = vec![row(2., Some(Bar::AtLeast(2.))), row(1., Some(Bar::AtLeast(2.)))];
        let table = Table { ours: "ours", theirs: "theirs", figure: "ratio", rows };
        assert_eq!(
            table.to_string(),
            "|      | bar | ours | theirs | ratio | met    |\n\
             |------|-----|------|--------|-------|--------|\n\
             | case | ≥ 2 | 1 ms | 2 ms   | 2.00  | yes    |\n\
             | case | ≥ 2 | 1 ms | 2 ms   | 1.00  | **no** |\n"
        );
    }
}
