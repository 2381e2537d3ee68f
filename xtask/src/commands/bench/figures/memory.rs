//! The peak memory of a step in each checkpoint mode, beside torchgpipe's, and of 1F1B with more
//! and more micro-batches.

use crate::commands::bench::Bench;
use crate::commands::bench::memory::Peak;
use crate::commands::bench::spread::Spread;
use crate::commands::bench::table::{Bar, Row, Table};
use crate::commands::bench::work::{GPT, Model, Who, Work};

const BAR: Bar = Bar::AtMost(0.9);
/// The bar relative to the peak with 8 micro-batches of the same size.
const FLAT: Bar = Bar::AtMost(1.05);

/// Large enough that most of the memory is for activations.
const UNET: Work = Work { model: Model::Unet { side: 128 }, stages: 2, rows: 32, chunks: 8 };
const LARGE_GPT: Work = Work { rows: 32, ..GPT };

pub fn measure(bench: &Bench<'_>) -> anyhow::Result<Table> {
    let mut rows = Vec::new();
    for work in [UNET, LARGE_GPT] {
        for checkpoint in ["always", "except_last", "never"] {
            eprintln!("  {work}, {checkpoint}");
            let theirs = bench.peaks(Who::Torchgpipe(checkpoint), &work)?;
            let ours = bench.peaks(Who::Ours(checkpoint), &work)?;
            rows.extend(compare(&format!("{work}, {checkpoint}"), &ours, &theirs, Some(BAR)));
            if checkpoint == "never" {
                // In GPipe's order, every library holds everything that autograd saves. Only
                // another order can save memory.
                let ours = bench.peaks(Who::OurStep("1f1b"), &work)?;
                rows.extend(compare("the same, train_step in 1F1B", &ours, &theirs, Some(BAR)));
            }
        }
    }
    for (who, name) in
        [(Who::OurStepWithoutOutput("1f1b"), "train_step"), (Who::OurStep("1f1b"), "train_step, with the output")]
    {
        let few = Work { rows: 2 * 8, chunks: 8, ..UNET };
        eprintln!("  {few}, 1F1B, {name}");
        let least = bench.peaks(who, &few)?;
        for chunks in [16, 32, 64] {
            let more = bench.peaks(who, &Work { rows: 2 * chunks, chunks, ..UNET })?;
            let bar = matches!(who, Who::OurStepWithoutOutput(_)).then_some(FLAT);
            rows.extend(compare(&format!("1F1B, {name}, {chunks} micro-batches beside 8"), &more, &least, bar));
        }
    }
    Ok(Table { ours: "ours", theirs: "theirs, or 8 micro-batches", figure: "ours / theirs", rows })
}

fn compare(case: &str, ours: &[Peak], theirs: &[Peak], bar: Option<Bar>) -> [Row; 2] {
    let row = |what: &str, of: fn(&Peak) -> f64| {
        let text = |peaks: &[Peak]| format!("{:.1} MB", Spread::of(peaks.iter().map(of)).median / 1e6);
        Row {
            case: format!("{case}: {what}"),
            ours: text(ours),
            theirs: text(theirs),
            figure: Spread::of(ours.iter().zip(theirs).map(|(ours, theirs)| of(ours) / of(theirs))),
            bar,
        }
    };
    [row("resident", |peak| peak.resident), row("live", |peak| peak.live)]
}
