//! What `Balance::advise` chooses within half of the memory that 1F1B takes, beside all choices
//! that were measured; and the memory that traces predict.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::recompute::{LARGE_GPT, UNET, megabytes};
use super::{peaks, spared};
use crate::commands::bench::Bench;
use crate::commands::bench::build;
use crate::commands::bench::contender::Contender;
use crate::commands::bench::duel::duel;
use crate::commands::bench::spread::Spread;
use crate::commands::bench::table::{Bar, Row, Table};
use crate::commands::bench::work::{Keeping, Setting, Who, Work};

/// The number of choices that take turns with the advised one: those that were the fastest alone.
const FINALISTS: usize = 8;

struct Subject {
    name: &'static str,
    work: Work,
    /// The numbers of layers that are recomputed.
    recompute: &'static [usize],
    /// The bar of the last stage's busy time.
    spared: f64,
}

const SUBJECTS: [Subject; 2] = [
    Subject { name: "gpt", work: LARGE_GPT, recompute: &[0, 1, 2, 3, 4], spared: 0.78 },
    Subject { name: "unet", work: UNET, recompute: &[0, 1, 2, 3], spared: 0.8 },
];

pub fn measure(bench: &Bench<'_>) -> anyhow::Result<Table> {
    let mut rows = Vec::new();
    for subject in SUBJECTS {
        rows.extend(subject.advised(bench)?);
        rows.push(spared::measure(bench, &subject.work, subject.spared)?);
        rows.extend(peaks::measure(bench, &subject.work)?);
    }
    Ok(Table { ours: "ours", theirs: "beside", figure: "ours / beside", rows })
}

/// A setting with its number of micro-batches and stages.
#[derive(Clone, Copy)]
struct Choice {
    setting: Setting,
    chunks: usize,
    stages: usize,
}

/// A choice that fits.
struct Fitting {
    choice: Choice,
    /// The peak of the rank that takes most, in bytes.
    bytes: f64,
    /// A step's time, in ms.
    time: f64,
}

impl Subject {
    fn advised(&self, bench: &Bench<'_>) -> anyhow::Result<Vec<Row>> {
        let limit = self.peak(bench, &choice("1f1b", 8, 2, "never", "keep", 0, "even"))? / 2.;
        let (program, said) = self.build_advised(bench, limit)?;
        let advised = || {
            let command = bench.command_of(&program, Who::OurAdvised, &self.work)?;
            Contender::start(bench.checkout, &Who::OurAdvised.to_string(), command)
        };
        let bytes = largest(&advised()?.memory()?);
        let choices = self.choices();
        let (tried, mut fitting) = (choices.len(), Vec::new());
        for choice in choices {
            eprintln!("  {}: {} in {} micro-batches", self.work, choice.setting, choice.chunks);
            let mut contender = self.start(bench, &choice)?;
            let bytes = largest(&contender.memory()?);
            if bytes <= limit {
                let time = Spread::of(contender.turn(3)?).median;
                fitting.push(Fitting { choice, bytes, time });
            }
        }
        if fitting.is_empty() {
            bail!("nothing fits into {}", megabytes(limit));
        }
        fitting.sort_by(|a, b| a.time.total_cmp(&b.time));
        let fitted = fitting.len();
        fitting.truncate(FINALISTS);
        let times = bench.starts_with(|turns| {
            let mut all = vec![advised()?];
            for finalist in &fitting {
                all.push(self.start(bench, &finalist.choice)?);
            }
            duel(&mut all, turns)
        })?;
        let by_time = |a: &usize, b: &usize| times.of(*a).median.total_cmp(&times.of(*b).median);
        let best = (1..=fitting.len()).min_by(by_time).context("something fits")?;
        let Fitting { choice, bytes: best_bytes, .. } = &fitting[best - 1];
        let work = self.work;
        Ok(vec![
            Row {
                case: format!(
                    "{work}: advised, {said}, beside the best of {fitted} measured choices that fit, of {tried}: {}, {} micro-batches",
                    choice.setting, choice.chunks
                ),
                ours: times.text(0),
                theirs: times.text(best),
                figure: times.ratio(0, best),
                bar: Some(Bar::AtMostOrEqual(1.03)),
            },
            Row {
                case: format!(
                    "{work}: the memory of its largest rank, beside the limit, half of 1F1B's; the other one takes {}",
                    megabytes(*best_bytes)
                ),
                ours: megabytes(bytes),
                theirs: megabytes(limit),
                figure: Spread::of([bytes / limit]),
                bar: Some(Bar::AtMost(1.)),
            },
        ])
    }

    /// Lets the measured model choose, and builds a contender with what it has chosen. Returns the
    /// program, and the settings.
    fn build_advised(&self, bench: &Bench<'_>, limit: f64) -> anyhow::Result<(PathBuf, String)> {
        let file = bench.checkout.programs().join("balance").join(format!("{}.toml", self.name));
        let _restored = Restored::new(&file)?;
        let mut command = bench.command_of(&bench.programs.ours, Who::OurAdvised, &self.work)?;
        command.args(["--memory-limit", &limit.floor().to_string()]).arg("--advise").arg(&file);
        let output = command.output().context("the contender cannot be started")?;
        if !output.status.success() {
            bail!("no advice: {}", String::from_utf8_lossy(&output.stderr));
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        eprintln!("{text}");
        let said = text.lines().find(|line| line.trim_start().starts_with("schedule = ")).context("no settings")?;
        let said = said.split(" on ").next().unwrap_or(said).trim().replace("schedule = ", "").replace(" = ", " ");
        Ok((build::ours(bench.checkout, &format!("advised-{}", self.name), &[])?, said))
    }

    fn start(&self, bench: &Bench<'_>, choice: &Choice) -> anyhow::Result<Contender> {
        let work = Work { chunks: choice.chunks, stages: choice.stages, ..self.work };
        bench.contender(Who::OurSetting(choice.setting), &work)
    }

    fn peak(&self, bench: &Bench<'_>, choice: &Choice) -> anyhow::Result<f64> {
        Ok(largest(&self.start(bench, choice)?.memory()?))
    }

    /// All that is measured.
    fn choices(&self) -> Vec<Choice> {
        let mut all = Vec::new();
        for chunks in [8, 16, 32] {
            for cheap_outputs in ["keep", "pointwise", "all"] {
                for &recompute in self.recompute {
                    for schedule in ["1f1b", "zb_h1"] {
                        all.push(choice(schedule, chunks, 2, "never", cheap_outputs, recompute, "even"));
                    }
                }
            }
            for cheap_outputs in ["keep", "all"] {
                for schedule in ["interleaved", "zbv", "v_half", "v_min"] {
                    all.push(choice(schedule, chunks, 4, "never", cheap_outputs, 0, "even"));
                }
                for cut in ["early", "late"] {
                    all.push(choice("1f1b", chunks, 2, "never", cheap_outputs, 0, cut));
                }
            }
            for checkpoint in ["except_last", "always"] {
                all.push(choice("1f1b", chunks, 2, checkpoint, "keep", 0, "even"));
            }
        }
        all
    }
}

fn choice(
    schedule: &'static str,
    chunks: usize,
    stages: usize,
    checkpoint: &'static str,
    cheap_outputs: &'static str,
    recompute: usize,
    cut: &'static str,
) -> Choice {
    let keeping = Keeping { checkpoint, cheap_outputs, recompute };
    Choice { setting: Setting { schedule, keeping, cut }, chunks, stages }
}

/// The measured peak of the rank that takes most.
fn largest(peaks: &[[f64; 2]]) -> f64 {
    peaks.iter().map(|[measured, _]| *measured).fold(0., f64::max)
}

/// Puts a file back when dropped: the one in the checkout names stages for those who only build it.
struct Restored {
    file: PathBuf,
    text: String,
}

impl Restored {
    fn new(file: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        Ok(Self { file: file.to_path_buf(), text })
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.file, &self.text) {
            eprintln!("cannot restore {}: {error}", self.file.display());
        }
    }
}
