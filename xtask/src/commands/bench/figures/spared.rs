//! The time in which the last stage is busy, beside a last stage that recomputes: in 1F1B, its
//! backward comes right after the forward, whose graph it keeps.

use crate::commands::bench::Bench;
use crate::commands::bench::duel::busy;
use crate::commands::bench::table::{Bar, Row};
use crate::commands::bench::work::{Who, Work};

pub fn measure(bench: &Bench<'_>, work: &Work, bar: f64) -> anyhow::Result<Row> {
    let who = [Who::OurCheckpointed, Who::OurCheckpointedEvery];
    eprintln!("  {work}: the last stage is busy, {} | {}", who[0], who[1]);
    let times = bench.starts_with(|turns| busy(&mut bench.contenders(&who, work)?, turns))?;
    Ok(Row {
        case: format!("{work}: the last stage is busy, 1F1B, always, beside one that recomputes every micro-batch"),
        ours: times.text(0),
        theirs: times.text(1),
        figure: times.ratio(0, 1),
        bar: Some(Bar::AtMost(bar)),
    })
}
