//! Values that are lent to all layers, beside the same model whose stages have them, and beside
//! torch.distributed.pipelining, which hands them from stage to stage.

use crate::commands::bench::Bench;
use crate::commands::bench::contender::Contender;
use crate::commands::bench::duel::{Times, check, take_turns};
use crate::commands::bench::spread::digits;
use crate::commands::bench::table::{Bar, Row, Table};
use crate::commands::bench::work::{DECODER, LONG_DECODER, MASKED_GPT, Who, Work};

/// The bar beside owned values.
const BAR: Bar = Bar::AtMost(1.02);
/// The lead over torch's pipelining may not shrink because of the values.
const LEAD: Bar = Bar::AtLeast(1.);

pub fn measure(bench: &Bench<'_>) -> anyhow::Result<Table> {
    let (mut rows, mut all) = (Vec::new(), Times::default());
    for lent in [DECODER, LONG_DECODER, MASKED_GPT] {
        for stages in [2, 4] {
            let lent = Work { stages, ..lent };
            let owned = Work { model: lent.model.owned(), ..lent };
            for schedule in ["gpipe", "1f1b"] {
                let (case, times) = of(bench, &lent, &owned, schedule)?;
                rows.extend(case);
                all.extend(times);
            }
        }
    }
    // A turn scatters by more than the bar, and so does the median of one case.
    let over_all = |case: &str, figure, bar| Row {
        case: format!("all turns of all cases: {case}"),
        ours: String::new(),
        theirs: String::new(),
        figure,
        bar: Some(bar),
    };
    rows.push(over_all("lent / owned", all.ratio(0, 2), BAR));
    rows.push(over_all("the lead / the lead with owned values", all.combine(leads), LEAD));
    Ok(Table { ours: "lent", theirs: "beside", figure: "ratio", rows })
}

/// The lead over torch's pipelining with lent values, divided by the one with owned ones.
fn leads(times: &[f64]) -> f64 {
    (times[1] / times[0]) / (times[3] / times[2])
}

fn of(bench: &Bench<'_>, lent: &Work, owned: &Work, schedule: &'static str) -> anyhow::Result<([Row; 3], Times)> {
    let (ours, theirs) = (Who::OurStepWithoutOutput(schedule), Who::NewestPipelining(schedule));
    eprintln!("  {lent}: {ours} | {theirs}");
    let contenders =
        [(ours, "lent", lent), (theirs, "handed on", lent), (ours, "owned", owned), (theirs, "owned", owned)];
    let start = |(who, values, work): (Who, &str, &Work)| {
        let command = bench.command_of(&bench.programs.ours, who, work)?;
        Contender::start(bench.checkout, &format!("{who}, {values}"), command)
    };
    let times = bench.starts_with(|turns| {
        let mut contenders = contenders.into_iter().map(start).collect::<anyhow::Result<Vec<_>>>()?;
        // Where each stage makes a memory, each learns a vector of it.
        contenders.chunks_mut(2).try_for_each(check)?;
        take_turns(&mut contenders, turns)
    })?;
    let rows = [
        Row {
            case: format!("{lent}, {schedule}: lent / owned"),
            ours: times.text(0),
            theirs: times.text(2),
            figure: times.ratio(0, 2),
            bar: Some(BAR),
        },
        Row {
            case: format!("the same: {theirs}, handed on / lent"),
            ours: times.text(0),
            theirs: times.text(1),
            figure: times.ratio(1, 0),
            bar: None,
        },
        Row {
            case: "the same: that lead / the lead with owned values".to_owned(),
            ours: digits(times.ratio(1, 0).median),
            theirs: digits(times.ratio(3, 2).median),
            figure: times.combine(leads),
            bar: Some(LEAD),
        },
    ];
    Ok((rows, times))
}
