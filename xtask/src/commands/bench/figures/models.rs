//! A mask and a memory that are lent to all layers, beside the same model whose layers have them.

use crate::commands::bench::Bench;
use crate::commands::bench::table::{Bar, Row, Table};
use crate::commands::bench::work::{DECODER, Model, Who, Work};

const BAR: Bar = Bar::AtMost(1.02);

pub fn measure(bench: &Bench<'_>) -> anyhow::Result<Table> {
    let mut rows = Vec::new();
    for stages in [2, 4] {
        let lent = Work { stages, ..DECODER };
        let owned = Work { model: Model::Decoder { lends: false }, ..lent };
        for schedule in ["gpipe", "1f1b"] {
            let who = Who::OurStepWithoutOutput(schedule);
            eprintln!("  {lent}, {who}");
            let times = bench.starts(|| Ok(vec![bench.contender(who, &lent)?, bench.contender(who, &owned)?]))?;
            rows.push(Row {
                case: format!("{lent}, {schedule}"),
                ours: times.text(0),
                theirs: times.text(1),
                figure: times.ratio(0, 1),
                bar: Some(BAR),
            });
        }
    }
    Ok(Table { ours: "lent", theirs: "owned", figure: "lent / owned", rows })
}
