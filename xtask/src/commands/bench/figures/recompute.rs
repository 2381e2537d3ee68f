//! Time over memory: what each way to keep less costs, beside torchgpipe and torch's own
//! `checkpoint`.

use std::fs;

use anyhow::Context;

use crate::commands::bench::Bench;
use crate::commands::bench::curve::{Curve, Point};
use crate::commands::bench::duel::Times;
use crate::commands::bench::spread::{Spread, digits};
use crate::commands::bench::table::{Bar, Row, Table};
use crate::commands::bench::work::{GPT, Keeping, Model, Who, Work};

/// Large enough that most of the memory is for activations.
pub const UNET: Work = Work { model: Model::Unet { side: 128 }, stages: 2, rows: 32, chunks: 8 };
pub const LARGE_GPT: Work = Work { rows: 32, ..GPT };

/// What is measured of a model: our ways to keep less, and the peers'.
struct Subject {
    name: &'static str,
    work: Work,
    /// With every cheap output kept and recomputed, the numbers of layers that are recomputed.
    recompute: [&'static [usize]; 2],
    /// The numbers of blocks in torch's `checkpoint`.
    torch: &'static [usize],
}

const SUBJECTS: [Subject; 2] = [
    Subject { name: "gpt", work: LARGE_GPT, recompute: [&[1, 2, 3, 4], &[1, 2, 3, 4]], torch: &[0, 1, 2, 3, 4] },
    Subject { name: "unet", work: UNET, recompute: [&[1, 2, 3], &[1, 2, 3]], torch: &[] },
];

const MODES: [&str; 3] = ["never", "except_last", "always"];

pub fn measure(bench: &Bench<'_>) -> anyhow::Result<Table> {
    let mut rows = Vec::new();
    for subject in SUBJECTS {
        rows.extend(subject.measure(bench)?);
    }
    Ok(Table { ours: "ours", theirs: "beside", figure: "ours / beside", rows })
}

const fn keeping(cheap_outputs: &'static str, recompute: usize) -> Who {
    Who::OursKeeping(Keeping { checkpoint: "never", cheap_outputs, recompute })
}

impl Subject {
    /// The contenders: first the checkpoint modes, then the other ways of ours.
    fn contenders(&self) -> Vec<Who> {
        let [kept, cheap] = self.recompute;
        let mut all = MODES.map(Who::Ours).to_vec();
        all.extend(kept.iter().map(|&layers| keeping("keep", layers)));
        all.push(keeping("pointwise", 0));
        all.push(keeping("all", 0));
        all.extend(cheap.iter().map(|&layers| keeping("all", layers)));
        all.extend(MODES.map(Who::Torchgpipe));
        all.extend(self.torch.iter().map(|&blocks| Who::TorchCheckpoint(blocks)));
        all
    }

    fn measure(&self, bench: &Bench<'_>) -> anyhow::Result<Vec<Row>> {
        let all = self.contenders();
        let times = bench.duel(&all, &self.work)?;
        let live = |&who: &Who| {
            eprintln!("  {}: memory of {who}", self.work);
            bench.peak_live(who, &self.work)
        };
        let bytes = all.iter().map(live).collect::<Result<Vec<_>, _>>()?;
        let measured = Measured { work: &self.work, all: &all, times: &times, bytes: &bytes };
        let file = bench.checkout.docs().join(format!("memory-{}.svg", self.name));
        fs::write(&file, measured.curve().to_svg()).with_context(|| format!("cannot write {}", file.display()))?;
        measured.rows(self.recompute[0].iter().copied().max().unwrap_or(0))
    }
}

struct Measured<'m> {
    work: &'m Work,
    all: &'m [Who],
    times: &'m Times,
    bytes: &'m [f64],
}

impl Measured<'_> {
    fn place(&self, who: Who) -> anyhow::Result<usize> {
        self.all.iter().position(|&other| other == who).with_context(|| format!("{who} was not measured"))
    }

    fn rows(&self, everything: usize) -> anyhow::Result<Vec<Row>> {
        let [never, always] = [self.place(Who::Ours("never"))?, self.place(Who::Ours("always"))?];
        let at = |part: f64| self.bytes[always] + part * (self.bytes[never] - self.bytes[always]);
        let mut rows = vec![
            self.fastest_within("half way from always to never", at(0.5), never, 1.15)?,
            self.fastest_within("a quarter of the way", at(0.25), never, 1.24)?,
        ];
        let theirs = self.place(Who::Torchgpipe("never"))?;
        for (cheap_outputs, bound) in [("pointwise", true), ("all", false)] {
            let ours = self.place(keeping(cheap_outputs, 0))?;
            let bar = |bar| bound.then_some(Bar::AtMost(bar));
            rows.push(Row {
                case: format!("{}: {} beside torchgpipe's never, live", self.work, self.all[ours]),
                ours: megabytes(self.bytes[ours]),
                theirs: megabytes(self.bytes[theirs]),
                figure: Spread::of([self.bytes[ours] / self.bytes[theirs]]),
                bar: bar(0.8),
            });
            rows.push(self.time(format!("{}: its time beside never", self.work), (ours, never), bar(1.06)));
        }
        let layers = self.place(keeping("keep", everything))?;
        let case = format!("{}: every block or cell recomputed, beside always", self.work);
        rows.push(self.time(case, (layers, always), Some(Bar::AtMost(1.06))));
        Ok(rows)
    }

    /// The fastest of ours that holds at most so many bytes, beside `never`.
    fn fastest_within(&self, what: &str, most: f64, never: usize, bar: f64) -> anyhow::Result<Row> {
        let ours = (0..self.all.len()).filter(|&number| matches!(self.all[number], Who::Ours(_) | Who::OursKeeping(_)));
        let fitting = ours.filter(|&number| self.bytes[number] <= most);
        let by_time = |a: &usize, b: &usize| self.times.of(*a).median.total_cmp(&self.times.of(*b).median);
        let best = fitting.min_by(by_time).context("`always` fits")?;
        let case = format!(
            "{}: {what}, {}: {} in {}",
            self.work,
            megabytes(most),
            self.all[best],
            megabytes(self.bytes[best])
        );
        Ok(self.time(case, (best, never), Some(Bar::AtMost(bar))))
    }

    fn time(&self, case: String, (ours, beside): (usize, usize), bar: Option<Bar>) -> Row {
        let (text, figure) = (|number| self.times.text(number), self.times.ratio(ours, beside));
        Row { case, ours: text(ours), theirs: text(beside), figure, bar }
    }

    /// All that was measured, beside `never`'s time.
    fn curve(&self) -> Curve {
        let series = [
            "checkpoint = never, except_last, always",
            "#[recompute] on more and more layers",
            "cheap_outputs: RecomputePointwise",
            "cheap_outputs: RecomputeAll, and #[recompute] on more and more layers",
            "torchgpipe: never, except_last, always",
            "torch 2.15 pipelining: torch's checkpoint by hand on more and more blocks",
        ];
        let series_of = |who: &Who| match who {
            Who::OursKeeping(Keeping { cheap_outputs: "keep", .. }) => 1,
            Who::OursKeeping(Keeping { cheap_outputs: "pointwise", .. }) => 2,
            Who::OursKeeping(_) => 3,
            Who::Torchgpipe(_) => 4,
            Who::TorchCheckpoint(_) => 5,
            _ => 0,
        };
        let mut curve = Curve::new(self.work.to_string(), "peak of live memory, MB", "time beside never");
        for (number, legend) in series.into_iter().enumerate() {
            let members = (0..self.all.len()).filter(|&member| series_of(&self.all[member]) == number);
            let point = |member: usize| Point {
                x: self.bytes[member] / 1e6,
                y: self.times.ratio(member, 0).median,
                note: format!("{}: {}", self.all[member], digits(self.times.of(member).median)),
            };
            let points: Vec<_> = members.map(point).collect();
            if !points.is_empty() {
                curve.add(legend.to_owned(), points);
            }
        }
        curve
    }
}

pub fn megabytes(bytes: f64) -> String {
    format!("{:.1} MB", bytes / 1e6)
}
