//! Forward, loss and backward in one process, in each checkpoint mode.

use crate::bench::Bench;
use crate::bench::table::{Bar, Row, Table};
use crate::bench::work::{GPT, MLP, SMALL_MLP, UNET, Who};

const BAR: Bar = Bar::AtLeast(2.);

pub fn measure(bench: &Bench<'_>) -> anyhow::Result<Table> {
    let mut rows = Vec::new();
    for work in [MLP, SMALL_MLP, UNET, GPT] {
        for checkpoint in ["always", "except_last", "never"] {
            let who = [Who::Ours(checkpoint), Who::Torchgpipe(checkpoint), Who::TorchPipe(checkpoint), Who::InPlace];
            // In place there is no checkpointing: it is shown beside its like only.
            let who = if checkpoint == "never" { &who[..] } else { &who[..3] };
            let times = bench.duel(who, &work)?;
            for (place, who) in who.iter().enumerate().skip(1) {
                rows.push(Row {
                    case: format!("{work}: {who}"),
                    ours: times.text(0),
                    theirs: times.text(place),
                    figure: times.ratio(place, 0),
                    bar: (*who != Who::InPlace).then_some(BAR),
                });
            }
        }
    }
    Ok(Table { theirs: "theirs", figure: "theirs / ours", rows })
}
