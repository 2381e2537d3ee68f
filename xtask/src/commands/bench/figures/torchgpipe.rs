//! Forward, loss and backward in one process, in each checkpoint mode.

use crate::commands::bench::Bench;
use crate::commands::bench::table::{Bar, Row, Table};
use crate::commands::bench::work::{GPT, MLP, SMALL_MLP, UNET, Who};

const BAR: Bar = Bar::AtLeast(2.);
/// The peers have only GPipe's order.
const STEP: Who = Who::OurStep("1f1b");

pub fn measure(bench: &Bench<'_>) -> anyhow::Result<Table> {
    let mut rows = Vec::new();
    for work in [MLP, SMALL_MLP, UNET, GPT] {
        for checkpoint in ["always", "except_last", "never"] {
            let theirs = [Who::Torchgpipe(checkpoint), Who::TorchPipe(checkpoint)];
            let mut who = vec![Who::Ours(checkpoint), theirs[0], theirs[1]];
            if checkpoint == "never" {
                // Unpipelined runs and train_step have no checkpointing here, so they are only
                // compared with the same.
                who.extend([Who::Unpipelined, STEP]);
            }
            let times = bench.duel(&who, &work)?;
            let row = |ours: usize, theirs: usize, case: String, bar| Row {
                case,
                ours: times.text(ours),
                theirs: times.text(theirs),
                figure: times.ratio(theirs, ours),
                bar,
            };
            for (place, who) in theirs.iter().enumerate() {
                rows.push(row(0, 1 + place, format!("{work}: {who}"), Some(BAR)));
            }
            if checkpoint == "never" {
                for (place, who) in theirs.iter().enumerate() {
                    rows.push(row(4, 1 + place, format!("the same, {STEP} on our side: {who}"), Some(BAR)));
                }
                rows.push(row(0, 3, format!("{work}: {}", Who::Unpipelined), None));
            }
        }
    }
    Ok(Table { ours: "ours", theirs: "theirs", figure: "theirs / ours", rows })
}
