//! Layers with almost no work: what remains is the overhead of an op in a pipeline.

use crate::commands::bench::Bench;
use crate::commands::bench::duel::Times;
use crate::commands::bench::spread::digits;
use crate::commands::bench::table::{Bar, Row, Table};
use crate::commands::bench::work::{Model, Who, Work};

/// The bar in µs beyond bare libtorch on the same cut graph. An op is the forward or the backward
/// of a micro-batch in a stage.
const BAR: Bar = Bar::AtMost(5.);

const OURS: [(Who, &str); 2] =
    [(Who::Ours("never"), "forward and backward()"), (Who::OurStep("1f1b"), "train_step, 1F1B")];

pub fn measure(bench: &Bench<'_>) -> anyhow::Result<Table> {
    let mut rows = Vec::new();
    for stages in [2, 4] {
        for chunks in [4, 64, 256] {
            let work = Work { model: Model::Trivial, stages, rows: chunks, chunks };
            let who = [Who::BareCut, Who::BareUncut].into_iter().chain(OURS.map(|(who, _)| who)).collect::<Vec<_>>();
            let times = bench.duel(&who, &work)?;
            for (place, (_, name)) in OURS.iter().enumerate() {
                rows.push(row(&work, &times, 2 + place, 0, format!("{work}, {name}"), Some(BAR)));
                rows.push(row(&work, &times, 2 + place, 1, "the same, of the uncut graph".into(), None));
            }
        }
    }
    Ok(Table { ours: "ours", theirs: "bare libtorch", figure: "ours - theirs", rows })
}

fn row(work: &Work, times: &Times, ours: usize, theirs: usize, case: String, bar: Option<Bar>) -> Row {
    let per_op = |milliseconds: f64| milliseconds * 1e3 / work.ops();
    let text = |contender| digits(per_op(times.of(contender).median));
    let figure = times.combine(|times| per_op(times[ours] - times[theirs]));
    Row { case, ours: text(ours), theirs: text(theirs), figure, bar }
}
