//! A step beside the simulated step, with op times that are measured while all cores are busy.

use crate::commands::bench::Bench;
use crate::commands::bench::table::{Bar, Row, Table};
use crate::commands::bench::work::{GPT, MLP, UNET, Who};

/// The bar relative to the simulated makespan.
const SIMULATED: Bar = Bar::AtMost(1.05);
/// The bar relative to the time that the bubble of equal stages allows: at most 1 / 0.95 of it.
const BOUND: Bar = Bar::AtLeast(0.95);

const OURS: [(Who, usize, &str); 3] = [
    (Who::Ours("never"), 3, "forward and backward()"),
    (Who::OurStep("gpipe"), 3, "train_step, GPipe"),
    (Who::OurStep("1f1b"), 4, "train_step, 1F1B"),
];

pub fn measure(bench: &Bench<'_>) -> anyhow::Result<Table> {
    let mut rows = Vec::new();
    for work in [MLP, UNET, GPT] {
        let reference = [Who::Simulated("gpipe"), Who::Simulated("1f1b"), Who::Bound];
        let who: Vec<_> = OURS.into_iter().map(|(who, ..)| who).chain(reference).collect();
        let times = bench.duel(&who, &work)?;
        for (place, (_, simulated, name)) in OURS.iter().enumerate() {
            rows.push(Row {
                case: format!("{work}, {name}: ours / simulated"),
                ours: times.text(place),
                theirs: times.text(*simulated),
                figure: times.ratio(place, *simulated),
                bar: Some(SIMULATED),
            });
            if work == MLP {
                rows.push(Row {
                    case: "the same: bubble bound / ours".into(),
                    ours: times.text(place),
                    theirs: times.text(5),
                    figure: times.ratio(5, place),
                    bar: Some(BOUND),
                });
            }
        }
    }
    Ok(Table { ours: "ours", theirs: "simulated, or the bound", figure: "ratio", rows })
}
