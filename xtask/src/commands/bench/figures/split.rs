//! A backward in two parts, for the inputs and for the parameters, beside the whole one: one stage,
//! one micro-batch, small layers.

use crate::commands::bench::Bench;
use crate::commands::bench::spread::digits;
use crate::commands::bench::table::{Bar, Row, Table};
use crate::commands::bench::work::{Model, Who, Work};

const BAR: Bar = Bar::AtMost(1.3);

pub fn measure(bench: &Bench<'_>) -> anyhow::Result<Table> {
    let mut rows = Vec::new();
    for layers in [12, 24] {
        let work = Work { model: Model::Mlp { width: 32, layers }, stages: 1, rows: 4, chunks: 1 };
        // Both steps include the same forward.
        let times = bench.duel(&[Who::OurStep("zb_h1"), Who::OurStep("gpipe"), Who::PlainForward], &work)?;
        let backward = |step: usize| format!("{} ms", digits(times.combine(|times| times[step] - times[2]).median));
        rows.push(Row {
            case: work.to_string(),
            ours: backward(0),
            theirs: backward(1),
            figure: times.combine(|times| (times[0] - times[2]) / (times[1] - times[2])),
            bar: (layers == 24).then_some(BAR),
        });
    }
    Ok(Table { ours: "ours", theirs: "our whole backward", figure: "split / whole", rows })
}
