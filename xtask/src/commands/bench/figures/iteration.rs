//! Whole training iterations (no gradients, a step, clipping by norm, AdamW) beside those with
//! tch's optimizer, and beside the peers with their fused AdamW.

use crate::commands::bench::Bench;
use crate::commands::bench::duel::{check, take_turns};
use crate::commands::bench::spread::digits;
use crate::commands::bench::table::{Bar, Row, Table};
use crate::commands::bench::work::{GPT, MLP, SMALL_MLP, WIDE_MLP, Who, Work};

/// The bars of a work: beside tch's optimizer, torch's pipelining and torchgpipe.
struct Bars {
    tch: Option<f64>,
    pipelining: f64,
}

const TORCHGPIPE: f64 = 2.2;
/// What is left of the time beyond the bare step.
const REST: f64 = 0.2;
const UPDATE: f64 = 5.;

pub fn measure(bench: &Bench<'_>) -> anyhow::Result<Table> {
    let mut rows = Vec::new();
    let update = bench.duel(&[Who::OurUpdate, Who::TchUpdate], &WIDE_MLP)?;
    rows.push(Row {
        case: format!("{WIDE_MLP}: {}", Who::TchUpdate),
        ours: update.text(0),
        theirs: update.text(1),
        figure: update.ratio(1, 0),
        bar: Some(Bar::AtLeast(UPDATE)),
    });
    for (work, bars) in [
        (MLP, Bars { tch: Some(1.14), pipelining: 1.35 }),
        (WIDE_MLP, Bars { tch: Some(1.14), pipelining: 1.3 }),
        (GPT, Bars { tch: Some(1.03), pipelining: 1.25 }),
        (SMALL_MLP, Bars { tch: None, pipelining: 4.5 }),
    ] {
        rows.extend(iterations(bench, &work, &bars)?);
    }
    Ok(Table { ours: "ours", theirs: "theirs", figure: "theirs / ours", rows })
}

fn iterations(bench: &Bench<'_>, work: &Work, bars: &Bars) -> anyhow::Result<Vec<Row>> {
    let ours = Who::OurIteration("1f1b");
    let theirs = [Who::TchIteration("1f1b"), Who::NewestPipeliningIteration("1f1b")];
    let who = [ours, theirs[0], theirs[1], Who::OurStepWithoutOutput("1f1b")];
    eprintln!("  {work}: {}", who.map(|who| who.to_string()).join(" | "));
    let times = bench.starts_with(|turns| {
        let mut contenders = bench.contenders(&who, work)?;
        // The bare step is another work.
        check(&mut contenders[..3])?;
        take_turns(&mut contenders, turns)
    })?;
    let mut rows = Vec::new();
    for (place, (who, bar)) in theirs.iter().zip([bars.tch, Some(bars.pipelining)]).enumerate() {
        rows.push(Row {
            case: format!("{work}: {who}"),
            ours: times.text(0),
            theirs: times.text(1 + place),
            figure: times.ratio(1 + place, 0),
            bar: bar.map(Bar::AtLeast),
        });
    }
    // AdamW turns the rounding of sums in another order into other updates of small gradients, so
    // torchgpipe is checked against the schedule that has its order.
    let torchgpipe = Who::TorchgpipeIteration("never");
    let who = [Who::OurIteration("gpipe"), torchgpipe, ours];
    eprintln!("  {work}: {}", who.map(|who| who.to_string()).join(" | "));
    let beside = bench.starts_with(|turns| {
        let mut contenders = bench.contenders(&who, work)?;
        check(&mut contenders[..2])?;
        take_turns(&mut contenders, turns)
    })?;
    rows.push(Row {
        case: format!("{work}: {torchgpipe}"),
        ours: beside.text(2),
        theirs: beside.text(1),
        figure: beside.ratio(1, 2),
        bar: Some(Bar::AtLeast(TORCHGPIPE)),
    });
    let beyond = |place: usize| format!("{} ms", digits(times.combine(|times| times[place] - times[3]).median));
    rows.push(Row {
        case: format!("{work}: beyond the bare step, ours / with tch's optimizer"),
        ours: beyond(0),
        theirs: beyond(1),
        figure: times.combine(|times| (times[0] - times[3]) / (times[1] - times[3])),
        bar: bars.tch.map(|_| Bar::AtMost(REST)),
    });
    Ok(rows)
}
