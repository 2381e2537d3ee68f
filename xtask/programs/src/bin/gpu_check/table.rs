//! The table of results.

use std::fmt;

/// The outcome of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Passed,
    Failed,
    /// A number without a bar.
    Measured,
    /// The check is not possible on this machine.
    Skipped,
}

/// The lines, in the order in which they are added. Each is also printed at once.
#[derive(Debug, Default)]
pub struct Table {
    lines: Vec<(String, Verdict, String)>,
}

impl Table {
    pub fn add(&mut self, name: impl Into<String>, verdict: Verdict, detail: impl Into<String>) {
        let line = (name.into(), verdict, detail.into());
        eprintln!("{}: {} ({})", line.0, line.1, line.2);
        self.lines.push(line);
    }

    pub fn skip(&mut self, name: impl Into<String>, why: &str) {
        self.add(name, Verdict::Skipped, why);
    }

    /// Passes if `found` is at least `bar`.
    pub fn at_least(&mut self, name: impl Into<String>, found: f64, bar: f64, detail: impl fmt::Display) {
        let verdict = if found >= bar { Verdict::Passed } else { Verdict::Failed };
        self.add(name, verdict, format!("{found:.3}, at least {bar} is wanted; {detail}"));
    }

    pub fn has_failures(&self) -> bool {
        self.lines.iter().any(|(_, verdict, _)| *verdict == Verdict::Failed)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Passed => "passed",
            Self::Failed => "FAILED",
            Self::Measured => "measured",
            Self::Skipped => "skipped",
        })
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.lines.iter().map(|(name, ..)| name.chars().count()).max().unwrap_or(0);
        for (name, verdict, detail) in &self.lines {
            writeln!(f, "{name:width$}  {verdict:8}  {detail}")?;
        }
        let count = |wanted| self.lines.iter().filter(|(_, verdict, _)| *verdict == wanted).count();
        write!(
            f,
            "{} passed, {} failed, {} measured, {} skipped",
            count(Verdict::Passed),
            count(Verdict::Failed),
            count(Verdict::Measured),
            count(Verdict::Skipped)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_that_is_missed_is_a_failure() {
        let mut table = Table::default();
        table.at_least("speed", 0.99, 0.98, "fine");
        table.skip("memory", "no GPU");
        assert!(!table.has_failures());
        table.at_least("speed", 0.97, 0.98, "slow");
        assert!(table.has_failures());
        assert!(table.to_string().ends_with("1 passed, 1 failed, 0 measured, 1 skipped"), "{table}");
    }
}
