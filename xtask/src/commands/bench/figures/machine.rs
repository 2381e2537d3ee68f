//! The present speed of the machine: one program alone, and two independent programs at once. All
//! other figures depend on it.

use crate::commands::bench::Bench;
use crate::commands::bench::duel::alone_and_at_once;
use crate::commands::bench::table::{Row, Table};
use crate::commands::bench::work::{GPT, MLP, Model, UNET, Who, Work};

/// The part of two cores that two programs get on a machine that does nothing else. The tables in
/// docs/performance.md are from such a machine.
const QUIET: f64 = 1.8;

const TRIVIAL: Work = Work { model: Model::Trivial, stages: 2, rows: 64, chunks: 64 };

pub fn measure(bench: &Bench<'_>) -> anyhow::Result<Table> {
    let mut rows = Vec::new();
    for (who, work) in
        [(Who::BareCut, TRIVIAL), (Who::Unpipelined, MLP), (Who::Unpipelined, UNET), (Who::Unpipelined, GPT)]
    {
        eprintln!("  {work}: {who}, alone and beside another");
        let mut pair = [bench.contender(who, &work)?, bench.contender(who, &work)?];
        let times = alone_and_at_once(&mut pair, bench.turns)?;
        rows.push(Row {
            case: format!("{work}, {who}"),
            ours: times.text(0),
            theirs: times.text(1),
            figure: times.combine(|times| 2. * times[0] / times[1]),
            bar: None,
        });
    }
    if let Some(row) = rows.iter().find(|row| row.figure.median < QUIET) {
        eprintln!(
            "  two programs at once get {} of two cores ({}): something else runs on this machine, or on its host, and what keeps both cores busy will be slower than in docs/performance.md",
            row.figure, row.case
        );
    }
    Ok(Table { ours: "alone", theirs: "two at once", figure: "of two cores", rows })
}
