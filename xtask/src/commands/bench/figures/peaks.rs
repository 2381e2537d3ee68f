//! The peak that a trace's simulation predicts, beside the measured one, under each schedule.

use anyhow::Context;

use super::STARTS;
use super::recompute::megabytes;
use crate::commands::bench::Bench;
use crate::commands::bench::spread::Spread;
use crate::commands::bench::table::{Bar, Row};
use crate::commands::bench::work::{Who, Work};

const BAR: Bar = Bar::Within(0.05);

/// All schedules, with the number of stages of two ranks. Each runs with two stages per rank where
/// it can.
const SCHEDULES: [(&str, usize); 10] = [
    ("gpipe", 4),
    ("1f1b", 2),
    ("interleaved", 4),
    ("looped_bfs", 4),
    ("zb_h1", 4),
    ("zb_h2", 2),
    ("zbv", 4),
    ("dualpipe_v", 4),
    ("v_half", 4),
    ("v_min", 4),
];

pub fn measure(bench: &Bench<'_>, work: &Work) -> anyhow::Result<Vec<Row>> {
    SCHEDULES.iter().map(|&(schedule, stages)| row(bench, &Work { stages, ..*work }, schedule)).collect()
}

fn row(bench: &Bench<'_>, work: &Work, schedule: &'static str) -> anyhow::Result<Row> {
    eprintln!("  {work}: predicted peak, {schedule}");
    let worst = |_| {
        let peaks = bench.contender(Who::OurStepOnTwoRanks(schedule), work)?.memory()?;
        let error = |[measured, predicted]: &[f64; 2]| (predicted / measured - 1.).abs();
        peaks.into_iter().max_by(|a, b| error(a).total_cmp(&error(b))).context("there is a rank")
    };
    let worst = (0..STARTS).map(worst).collect::<anyhow::Result<Vec<_>>>()?;
    let text = |of: usize| megabytes(Spread::of(worst.iter().map(|peak| peak[of])).median);
    Ok(Row {
        case: format!("{work}: predicted beside measured peak, the worst rank, {schedule}"),
        ours: text(1),
        theirs: text(0),
        figure: Spread::of(worst.iter().map(|[measured, predicted]| predicted / measured)),
        bar: Some(BAR),
    })
}
