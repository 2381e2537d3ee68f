//! Training steps in the same schedule, beside torch.distributed.pipelining with one process per
//! stage.

use crate::commands::bench::Bench;
use crate::commands::bench::table::{Bar, Row, Table};
use crate::commands::bench::work::{GPT, MLP, SMALL_MLP, UNET, Who};

const BAR: Bar = Bar::AtLeast(1.5);
/// The bar for a work that consists mostly of the overhead of ops.
const SMALL_BAR: Bar = Bar::AtLeast(5.);

pub fn measure(bench: &Bench<'_>) -> anyhow::Result<Table> {
    let mut rows = Vec::new();
    for work in [MLP, SMALL_MLP, UNET, GPT] {
        for schedule in ["gpipe", "1f1b"] {
            let who = [Who::OurStep(schedule), Who::Pipelining(schedule), Who::NewestPipelining(schedule)];
            let times = bench.duel(&who, &work)?;
            for (place, who) in who.iter().enumerate().skip(1) {
                rows.push(Row {
                    case: format!("{work}: {who}"),
                    ours: times.text(0),
                    theirs: times.text(place),
                    figure: times.ratio(place, 0),
                    bar: Some(if work == SMALL_MLP { SMALL_BAR } else { BAR }),
                });
            }
        }
    }
    Ok(Table { ours: "ours", theirs: "theirs", figure: "theirs / ours", rows })
}
