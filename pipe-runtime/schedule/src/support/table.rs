//! Tables of text, with columns as wide as they need to be.

/// On which side of a column its cells stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// On the left.
    Left,
    /// On the right, as numbers do.
    Right,
}

/// A table of text. Each row has a cell for each column.
#[derive(Clone, Debug)]
pub struct Table {
    heads: Vec<String>,
    sides: Vec<Side>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns: a head, and the side of the cells. A column without a head has
    /// no rule under it.
    pub fn new(columns: &[(&str, Side)]) -> Self {
        let (heads, sides) = columns.iter().map(|&(head, side)| (head.to_owned(), side)).unzip();
        Self { heads, sides, rows: Vec::new() }
    }

    /// A table whose cells all stand on the left.
    pub fn left(heads: &[&str]) -> Self {
        Self::new(&heads.iter().map(|&head| (head, Side::Left)).collect::<Vec<_>>())
    }

    /// Adds a row.
    pub fn push(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }

    /// The heads, the rule under them, and the rows.
    pub fn lines(&self) -> Vec<String> {
        let width = |cell: &String| cell.chars().count();
        let widths: Vec<_> = (0..self.heads.len())
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                cells.chain([&self.heads[column]]).map(width).max().unwrap_or(0)
            })
            .collect();
        let rule = self.heads.iter().zip(&widths);
        let rule: Vec<_> = rule.map(|(head, &width)| "-".repeat(if head.is_empty() { 0 } else { width })).collect();
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&widths).zip(&self.sides).map(|((cell, &width), side)| match side {
                Side::Left => format!("{cell:width$}"),
                Side::Right => format!("{cell:>width$}"),
            });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        [&self.heads, &rule].into_iter().chain(&self.rows).map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&[("name", Side::Left), ("n", Side::Right), ("", Side::Left)]);
        table.push(["a", "1", "first"].map(str::to_owned).to_vec());
        table.push(["µ-batch", "23", ""].map(str::to_owned).to_vec());
        assert_eq!(table.lines(), ["name      n", "-------  --", "a         1  first", "µ-batch  23"]);
    }
}
