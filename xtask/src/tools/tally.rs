//! Adds up the last lines of test binaries.

use std::fmt;

/// Reads the output of `cargo test` in pieces of any size.
#[derive(Default)]
pub struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
    /// Tests that cargo counts as passed, but have skipped themselves.
    passed_in_vain: u64,
    /// The start of a line whose end has not arrived.
    line: Vec<u8>,
}

impl Tally {
    pub fn add(&mut self, output: &[u8]) {
        for piece in output.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                self.add_line(&String::from_utf8_lossy(&line));
            }
        }
    }

    /// Counts one more: passed or not, `None` if it was skipped.
    pub fn count(&mut self, passed: Option<bool>) {
        match passed {
            Some(true) => self.passed += 1,
            Some(false) => self.failed += 1,
            None => self.skipped += 1,
        }
    }

    /// Whether a test has passed that has not skipped itself.
    pub fn has_passed(&self) -> bool {
        self.passed > self.passed_in_vain
    }

    pub fn has_failures(&self) -> bool {
        self.failed > 0
    }

    /// Adds the counts of a line such as `test result: ok. 4 passed; 0 failed; 1 ignored; 0
    /// measured; 0 filtered out; ...`
    ///
    /// A test that finds that it cannot run says so in a line `skipped: ...`, which may follow its
    /// name, and passes for cargo.
    fn add_line(&mut self, line: &str) {
        if line.starts_with("skipped: ") || line.starts_with("test ") && line.contains(" ... skipped: ") {
            self.skipped += 1;
            self.passed_in_vain += 1;
        }
        let Some(counts) = line.strip_prefix("test result: ") else {
            return;
        };
        let words: Vec<_> = counts.split_whitespace().collect();
        for pair in words.windows(2) {
            let Ok(count) = pair[0].parse::<u64>() else {
                continue;
            };
            match pair[1] {
                "passed;" => self.passed += count,
                "failed;" => self.failed += count,
                "ignored;" => self.skipped += count,
                _ => {}
            }
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let passed = self.passed.saturating_sub(self.passed_in_vain);
        write!(f, "{passed} passed, {} failed, {} skipped", self.failed, self.skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "running 2 tests\ntest a ... ok\n\n\
        test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
        test result: FAILED. 30 passed; 4 failed; 0 ignored; 0 measured; 7 filtered out; finished in 1.20s\n\
        not a test result: ok. 9 passed; 9 failed; 9 ignored;\n";

    #[test]
    fn results_are_summed_over_the_test_binaries() {
        let mut tally = Tally::default();
        tally.add(OUTPUT.as_bytes());
        assert_eq!(tally.to_string(), "32 passed, 4 failed, 1 skipped");
    }

    #[test]
    fn tests_that_skip_themselves_have_not_passed() {
        let mut tally = Tally::default();
        tally.add(b"test a ... skipped: no disk\nok\nskipped: no thread\ntest b ... ok\n");
        tally.add(b"what else is skipped: nothing\ntest c ... ok\n");
        tally.add(b"test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured\n");
        assert_eq!(tally.to_string(), "1 passed, 0 failed, 3 skipped");
    }

    #[test]
    fn lines_may_come_in_pieces() {
        let mut tally = Tally::default();
        OUTPUT.as_bytes().chunks(7).for_each(|piece| tally.add(piece));
        assert_eq!(tally.to_string(), "32 passed, 4 failed, 1 skipped");
    }

    #[test]
    fn coloured_results_count() {
        let mut tally = Tally::default();
        tally.add(b"test result: \x1b[32mok\x1b[m. 3 passed; 0 failed; 0 ignored; 0 measured\n");
        assert_eq!(tally.to_string(), "3 passed, 0 failed, 0 skipped");
    }
}
