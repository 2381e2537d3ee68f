//! Training steps over two processes, beside the same two stages in one process, and beside
//! torch.distributed.pipelining, which sends its messages over Gloo.

use crate::commands::bench::Bench;
use crate::commands::bench::table::{Bar, Row, Table};
use crate::commands::bench::work::{GPT, MLP, SMALL_MLP, UNET, Who};

/// Two processes may take 1.05 of the time of one.
const BESIDE_ONE: Bar = Bar::AtLeast(0.95);
const SMALL_BAR: Bar = Bar::AtLeast(4.);

pub fn measure(bench: &Bench<'_>) -> anyhow::Result<Table> {
    let mut rows = Vec::new();
    for work in [MLP, SMALL_MLP, UNET, GPT] {
        let who = [Who::OurProcesses("1f1b"), Who::OurStepWithoutOutput("1f1b"), Who::NewestPipelining("1f1b")];
        let times = bench.duel(&who, &work)?;
        for (place, bar) in [(1, Some(BESIDE_ONE)), (2, Some(SMALL_BAR).filter(|_| work == SMALL_MLP))] {
            rows.push(Row {
                case: format!("{work}: {}", who[place]),
                ours: times.text(0),
                theirs: times.text(place),
                figure: times.ratio(place, 0),
                bar,
            });
        }
    }
    Ok(Table { ours: "over two processes", theirs: "theirs", figure: "theirs / ours", rows })
}
