//! The tables and their place in the page.

use std::fmt::{self, Write};
use std::ops::Range;

use anyhow::{Context, Result};
use pipe_runtime::ScheduleKind;
use pipe_runtime::schedule::Checkpoint;
use pipe_runtime::schedule::support::bytes;

use crate::benchmark::{Baseline, Benchmark, Setting};
use crate::simulation::{Found, Measured, Step, Wanted};

const BEGIN: &str = "<!-- published: begin -->\n";
const END: &str = "<!-- published: end -->\n";

/// The most micro-batches of a small run.
const FEW: usize = 8;

/// Consecutive layers, by the name of their field.
#[derive(Debug)]
pub struct Part {
    name: &'static str,
    layers: Range<usize>,
}

impl Part {
    /// Makes the parts of a model from their numbers of layers.
    pub fn all(parts: impl IntoIterator<Item = (&'static str, usize)>) -> Vec<Self> {
        let mut end = 0;
        let part = |(name, count)| {
            let layers = end..end + count;
            end = layers.end;
            Self { name, layers }
        };
        parts.into_iter().map(part).collect()
    }
}

/// What is told about a benchmark.
#[derive(Debug)]
pub struct Tables {
    name: &'static str,
    /// What the layers took.
    layers: Vec<Vec<String>>,
    /// The settings, published and simulated.
    settings: Vec<Vec<String>>,
    /// The schedules in the last setting.
    schedules: Vec<Vec<String>>,
    /// The last setting.
    last: String,
}

impl Tables {
    /// Simulates all settings. `modules` are how many of torchgpipe's each layer is. In a small run
    /// the published cuts do not fit, and each device has as many layers as the others.
    pub fn new(
        benchmark: &Benchmark,
        measured: &Measured,
        modules: &[usize],
        parts: Vec<Part>,
        small: bool,
    ) -> Result<Self> {
        let mut runs = Vec::new();
        for setting in benchmark.settings {
            runs.push(Run::new(setting, measured, modules, small)?);
        }
        let baseline = match benchmark.baseline {
            Baseline::Unpipelined => measured.unpipelined(),
            Baseline::First => runs[0].same.throughput,
        };
        let settings = runs.iter().map(|run| run.cells(baseline, benchmark.baseline_throughput)).collect::<Vec<_>>();
        let last = runs.last().context("a benchmark has settings")?;
        let mut schedules = vec![vec![
            "torchgpipe's".to_owned(),
            times(last.same.throughput / baseline),
            bytes(last.same.memory),
            String::new(),
            String::new(),
        ]];
        for kind in ScheduleKind::ALL {
            schedules.push(last.schedule(kind, measured, baseline)?);
        }
        Ok(Self {
            name: benchmark.name,
            layers: layers(measured, &parts),
            settings,
            schedules,
            last: format!("{} devices and {} micro-batches", last.setting.devices(), last.chunks),
        })
    }
}

impl fmt::Display for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, layers, settings, schedules, last } = self;
        let heads = ["layers", "how many", "forward", "backward", "of it for the inputs", "of the whole"];
        writeln!(f, "**{name}**, measured, per image:\n\n{}", markdown(&heads, layers))?;
        let heads = [
            "devices, micro-batches",
            "torchgpipe",
            "GPipe",
            "the same, simulated",
            "our cuts",
            "layers per device",
            "the fastest in the same memory",
            "which is",
        ];
        writeln!(f, "**{name}**, speed-ups:\n\n{}", markdown(&heads, settings))?;
        let heads = ["schedule", "speed-up", "memory per device", "in torchgpipe's memory", "with"];
        write!(f, "**{name}**, schedules with {last}:\n\n{}", markdown(&heads, schedules))
    }
}

/// What the parts of a model took, per image.
fn layers(measured: &Measured, parts: &[Part]) -> Vec<Vec<String>> {
    let sums = |range: Range<usize>| {
        measured.layers.layers[range].iter().fold([0.; 3], |[forward, input, weight], layer| {
            [forward + layer.forward, input + layer.backward_input, weight + layer.backward_weight]
        })
    };
    let whole: f64 = sums(0..measured.layers.layers.len()).iter().sum();
    let row = |name: &str, count: usize, range: Range<usize>| {
        let [forward, input, weight] = sums(range);
        let time = |seconds: f64| format!("{:.1} ms", seconds / measured.rows as f64 * 1e3);
        let backward = input + weight;
        vec![
            name.to_owned(),
            count.to_string(),
            time(forward),
            time(backward),
            percent(input / backward),
            percent((forward + backward) / whole),
        ]
    };
    let mut rows: Vec<_> = parts.iter().map(|part| row(part.name, part.layers.len(), part.layers.clone())).collect();
    let all = measured.layers.layers.len();
    rows.push(row("all", all, 0..all));
    rows
}

/// A setting, simulated.
struct Run<'s> {
    setting: &'s Setting,
    chunks: usize,
    rows: usize,
    same: Step,
    /// In the same order, with our cuts.
    cut: Step,
    fastest: Found,
}

impl<'s> Run<'s> {
    fn new(setting: &'s Setting, measured: &Measured, modules: &[usize], small: bool) -> Result<Self> {
        let (devices, rows) = (setting.devices(), setting.rows());
        let (stages, chunks) = if small {
            let end = |device: usize| modules.len() * device / devices;
            ((0..devices).map(|device| end(device + 1) - end(device)).collect(), setting.chunks.min(FEW))
        } else {
            (
                setting.layers(modules).with_context(|| format!("a cut is inside of a layer: {setting:?}"))?,
                setting.chunks,
            )
        };
        eprintln!("  {devices} devices, {chunks} micro-batches of {rows} images");
        let same = measured.torchgpipe(&stages, chunks, rows, setting.checkpoint)?;
        let wanted = Wanted {
            devices,
            chunks,
            rows,
            schedules: &[ScheduleKind::GPipe],
            checkpoints: &[setting.checkpoint],
            stages_per_device: 1,
            memory: f64::INFINITY,
        };
        let cut = measured.fastest(&wanted)?.context("GPipe's order takes any stages")?.step;
        let free = Wanted {
            schedules: &ScheduleKind::ALL,
            checkpoints: &Checkpoint::ALL,
            stages_per_device: 2,
            memory: same.memory,
            ..wanted
        };
        let fastest = measured.fastest(&free)?.context("what torchgpipe does fits into its memory")?;
        Ok(Self { setting, chunks, rows, same, cut, fastest })
    }

    fn cells(&self, baseline: f64, published: f64) -> Vec<String> {
        let Self { setting, chunks, same, cut, fastest, .. } = self;
        vec![
            format!("{}, {chunks}", setting.devices()),
            times(setting.throughput / published),
            setting.gpipe.map_or_else(String::new, times),
            times(same.throughput / baseline),
            times(cut.throughput / baseline),
            cut.cuts(),
            times(fastest.step.throughput / baseline),
            format!("{}, {}", fastest.schedule, fastest.how()),
        ]
    }

    /// What a schedule makes of this setting: with all memory that it needs, and in that of
    /// torchgpipe.
    fn schedule(&self, kind: ScheduleKind, measured: &Measured, baseline: f64) -> Result<Vec<String>> {
        let wanted = Wanted {
            devices: self.setting.devices(),
            chunks: self.chunks,
            rows: self.rows,
            schedules: &[kind],
            checkpoints: &[Checkpoint::Never],
            stages_per_device: 2,
            memory: f64::INFINITY,
        };
        let free = measured.fastest(&wanted)?;
        let limited =
            measured.fastest(&Wanted { checkpoints: &Checkpoint::ALL, memory: self.same.memory, ..wanted })?;
        let speed_up = |found: &Found| times(found.step.throughput / baseline);
        let none = || "none".to_owned();
        Ok(vec![
            format!("`{kind}`"),
            free.as_ref().map_or_else(none, speed_up),
            free.as_ref().map_or_else(String::new, |found| bytes(found.step.memory)),
            limited.as_ref().map_or_else(none, speed_up),
            limited.as_ref().map_or_else(String::new, Found::how),
        ])
    }
}

impl Step {
    /// The number of layers of each stage.
    fn cuts(&self) -> String {
        self.stages.iter().map(usize::to_string).collect::<Vec<_>>().join(" ")
    }
}

impl Found {
    /// What is recomputed, and the stages.
    fn how(&self) -> String {
        let kept = match (self.recomputed, self.checkpoint) {
            (0, Checkpoint::Never) => "nothing recomputed".to_owned(),
            (0, mode) => format!("checkpoint `{mode}`"),
            (1, _) => "1 layer recomputed".to_owned(),
            (some, _) => format!("{some} layers recomputed"),
        };
        format!("{kept}, stages of {}", self.step.cuts())
    }
}

fn times(speed_up: f64) -> String {
    format!("{speed_up:.2}")
}

fn percent(part: f64) -> String {
    format!("{:.0} %", 100. * part)
}

/// A table in Markdown with columns as wide as their cells.
pub fn markdown(heads: &[&str], rows: &[Vec<String>]) -> String {
    let heads: Vec<_> = heads.iter().map(|&head| head.to_owned()).collect();
    let lines = || std::iter::once(&heads).chain(rows);
    let width = |column: usize| lines().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..heads.len()).map(width).collect();
    let mut text = String::new();
    for (number, line) in lines().enumerate() {
        for (cell, width) in line.iter().zip(&widths) {
            let _ = write!(text, "| {cell:width$} ");
        }
        text += "|\n";
        if number == 0 {
            widths.iter().for_each(|width| text += &format!("|{}", "-".repeat(width + 2)));
            text += "|\n";
        }
    }
    text
}

/// The page with its tables replaced by these.
pub fn replaced(page: &str, text: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{text}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_keeps_everything_but_the_tables() {
        let page = format!("a\n{BEGIN}old\n{END}b\n");
        assert_eq!(replaced(&page, "new\n"), Some(format!("a\n{BEGIN}\nnew\n\n{END}b\n")));
        assert_eq!(replaced("a page without a place", ""), None);
    }

    #[test]
    fn columns_are_as_wide_as_their_cells() {
        let text = markdown(&["a", "wide"], &[vec!["long".to_owned(), "1".to_owned()]]);
        assert_eq!(text, "| a    | wide |\n|------|------|\n| long | 1    |\n");
    }
}
