//! Tables of text, with columns as wide as their cells.

/// The alignment of the cells of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Left.
    Left,
    /// Right, for numbers.
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
    /// Makes a table with these columns, each with a head and an alignment. A column without a head
    /// has no rule under it.
    pub fn new(columns: &[(&str, Side)]) -> Self {
        let (heads, sides) = columns.iter().map(|&(head, side)| (head.to_owned(), side)).unzip();
        Self { heads, sides, rows: Vec::new() }
    }

    /// Makes a table whose cells are all aligned to the left.
    pub fn left(heads: &[&str]) -> Self {
        Self::new(&heads.iter().map(|&head| (head, Side::Left)).collect::<Vec<_>>())
    }

    /// Adds a row.
    pub fn push(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }

    /// The lines of the table: the heads, the rule under them, and the rows.
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
