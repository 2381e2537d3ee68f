//! The time of an op, or of all work, with more micro-batches, and with more stages than cores.

use crate::commands::bench::Bench;
use crate::commands::bench::duel::{check, duel, take_turns};
use crate::commands::bench::spread::digits;
use crate::commands::bench::table::{Bar, Row, Table};
use crate::commands::bench::work::{Model, Who, Work};

/// The bar relative to the time of an op with 4 micro-batches, or with 2 stages.
const FLAT: Bar = Bar::AtMost(1.05);
/// Real layers, enough for 16 stages.
const LARGE: Work = Work { model: Model::Mlp { width: 512, layers: 16 }, stages: 2, rows: 1024, chunks: 32 };
/// The bar relative to the time of the same work in 2 stages.
const WORK: Bar = Bar::AtMost(1.05);

const WHO: [(Who, &str); 2] =
    [(Who::Ours("never"), "forward and backward()"), (Who::OurStep("1f1b"), "train_step, 1F1B")];

const MICRO_BATCHES: [usize; 4] = [4, 16, 64, 256];
const STAGES: [usize; 4] = [2, 4, 8, 16];

pub fn measure(bench: &Bench<'_>) -> anyhow::Result<Table> {
    let trivial = |stages, chunks| Work { model: Model::Trivial, stages, rows: chunks, chunks };
    let mut rows = Vec::new();
    for (who, name) in WHO {
        for stages in STAGES {
            rows.extend(ops(bench, who, name, &MICRO_BATCHES.map(|chunks| trivial(stages, chunks)))?);
        }
        rows.extend(ops(bench, who, name, &STAGES.map(|stages| trivial(stages, 64)))?);
        rows.extend(whole(bench, who, name)?);
    }
    Ok(Table { ours: "ours", theirs: "the first", figure: "ours / the first", rows })
}

/// The time of an op in ever larger works, relative to the first one.
fn ops(bench: &Bench<'_>, who: Who, name: &str, works: &[Work]) -> anyhow::Result<Vec<Row>> {
    eprintln!("  {name}: {} to {}", works[0], works[works.len() - 1]);
    let mut contenders = Vec::new();
    for work in works {
        // Each work has another loss.
        let mut pair = bench.contenders(&[who, Who::Unpipelined], work)?;
        check(&mut pair)?;
        contenders.push(pair.swap_remove(0));
    }
    let times = take_turns(&mut contenders, bench.turns)?;
    let per_op = |place: usize, milliseconds: f64| milliseconds * 1e3 / works[place].ops();
    let text = |place: usize| format!("{} µs per op", digits(per_op(place, times.of(place).median)));
    let row = |place: usize| Row {
        case: format!("{}, {name}", works[place]),
        ours: text(place),
        theirs: text(0),
        figure: times.combine(|times| per_op(place, times[place]) / per_op(0, times[0])),
        bar: Some(FLAT),
    };
    Ok((1..works.len()).map(row).collect())
}

/// The time of the same layers in ever more stages, relative to two.
fn whole(bench: &Bench<'_>, who: Who, name: &str) -> anyhow::Result<Vec<Row>> {
    let mut contenders = Vec::new();
    for stages in STAGES {
        contenders.push(bench.contender(who, &Work { stages, ..LARGE })?);
    }
    eprintln!("  {name}: {LARGE}");
    let times = duel(&mut contenders, bench.turns)?;
    let row = |place: usize| Row {
        case: format!("{LARGE}, {} stages, {} micro-batches, {name}", STAGES[place], LARGE.chunks),
        ours: times.text(place),
        theirs: times.text(0),
        figure: times.ratio(place, 0),
        bar: Some(WORK),
    };
    Ok((1..STAGES.len()).map(row).collect())
}
