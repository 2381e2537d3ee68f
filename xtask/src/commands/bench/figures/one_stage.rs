//! A pipeline with one stage and one micro-batch beside plain tch: the overhead of a pipeline.

use crate::commands::bench::Bench;
use crate::commands::bench::table::{Bar, Row, Table};
use crate::commands::bench::work::{GPT, MLP, SMALL_MLP, UNET, Who, Work};

const BAR: Bar = Bar::AtLeast(0.99);

pub fn measure(bench: &Bench<'_>) -> anyhow::Result<Table> {
    let mut rows = Vec::new();
    for work in [MLP, SMALL_MLP, UNET, GPT] {
        let work = Work { stages: 1, chunks: 1, ..work };
        let times = bench.duel(&[Who::Ours("never"), Who::PlainTch], &work)?;
        rows.push(Row {
            case: work.to_string(),
            ours: times.text(0),
            theirs: times.text(1),
            figure: times.ratio(1, 0),
            bar: Some(BAR),
        });
    }
    Ok(Table { ours: "ours", theirs: "plain tch", figure: "theirs / ours", rows })
}
