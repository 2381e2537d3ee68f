//! Saving and loading a checkpoint of 2 GiB, beside what the same bytes take without this library.
//! One process measures both sides, turn by turn.

use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::commands::bench::Bench;
use crate::commands::bench::spread::{Spread, digits};
use crate::commands::bench::table::{Bar, Row, Table};

/// What is measured, by the program's names: ours, the other side, and the bar of their ratio.
const TIMES: [(&str, &str, &str, f64); 4] = [
    ("load, beside reading blocks of 1 MiB", "load", "read_blocks", 1.5),
    ("save, beside writing blocks of 1 MiB and syncing", "save", "write_blocks", 1.3),
    ("pause of a save in the background, beside a copy of the state", "pause_fresh", "copy_fresh", 1.2),
    ("the same with a buffer that is used again", "pause_again", "copy_again", 1.1),
];

const MEMORY: [(&str, &str); 2] =
    [("memory on top while loading", "load_memory"), ("memory on top while saving", "save_memory")];

/// MiB.
const MEMORY_BAR: f64 = 64.;

pub fn measure(bench: &Bench<'_>) -> anyhow::Result<Table> {
    let turns = run(bench)?;
    let numbers = |name: &str| {
        let number = |turn: &String| number(turn, name).with_context(|| format!("the program prints no `{name}`"));
        turns.iter().map(number).collect::<anyhow::Result<Vec<_>>>()
    };
    let mut rows = Vec::new();
    for (case, ours, theirs, bar) in TIMES {
        let (ours, theirs) = (numbers(ours)?, numbers(theirs)?);
        let text = |seconds: &[f64]| format!("{} ms", digits(Spread::of(seconds.iter().map(|s| s * 1e3)).median));
        rows.push(Row {
            case: case.to_owned(),
            ours: text(&ours),
            theirs: text(&theirs),
            figure: Spread::of(ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs)),
            bar: Some(Bar::AtMost(bar)),
        });
    }
    for (case, name) in MEMORY {
        let mebibytes = Spread::of(numbers(name)?.into_iter().map(|bytes| bytes / f64::from(1 << 20)));
        rows.push(Row {
            case: format!("{case}, MiB"),
            ours: format!("{:.1} MiB", mebibytes.median),
            theirs: String::new(),
            figure: mebibytes,
            bar: Some(Bar::AtMost(MEMORY_BAR)),
        });
    }
    Ok(Table { ours: "ours", theirs: "theirs", figure: "ours / theirs", rows })
}

/// The number of this name in a line of `name=number`.
fn number(line: &str, name: &str) -> Option<f64> {
    line.split_whitespace().find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}

/// Runs the program. Returns its line for each turn.
fn run(bench: &Bench<'_>) -> anyhow::Result<Vec<String>> {
    let folder = bench.checkout.bench().join("checkpoint-files");
    let mut program = Command::new(&bench.programs.checkpoint);
    program.args(["--turns", &bench.turns.to_string()]).arg(&folder).stderr(Stdio::inherit());
    let output = program.output().with_context(|| format!("cannot start {}", program.get_program().display()))?;
    if !output.status.success() {
        bail!("the program that saves and loads has failed: see above");
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_found_by_its_whole_name() {
        let line = "bytes=10 load_memory=3 load=0.5";
        assert_eq!((number(line, "load"), number(line, "bytes"), number(line, "save")), (Some(0.5), Some(10.), None));
    }
}
