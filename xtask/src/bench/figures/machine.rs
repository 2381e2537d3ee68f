//! What the machine gives at the moment: one program alone, and two at once that have nothing to do with each other. All other figures depend on it.

use std::thread;

use anyhow::anyhow;

use crate::bench::Bench;
use crate::bench::contender::Contender;
use crate::bench::duel::steps_of_a_turn;
use crate::bench::spread::{Spread, digits};
use crate::bench::table::{Row, Table};
use crate::bench::work::{GPT, MLP, Model, UNET, Who, Work};

/// Of two cores, what two programs at once reach on a machine that does nothing else; the tables in docs/performance.md are from such ones.
const QUIET: f64 = 1.8;

const TRIVIAL: Work = Work { model: Model::Trivial, stages: 2, rows: 64, chunks: 64 };

pub fn measure(bench: &Bench<'_>) -> anyhow::Result<Table> {
    let mut rows = Vec::new();
    for (who, work) in [(Who::BareCut, TRIVIAL), (Who::InPlace, MLP), (Who::InPlace, UNET), (Who::InPlace, GPT)] {
        eprintln!("  {work}: {who}, alone and beside another");
        let mut pair = [bench.contender(who, &work)?, bench.contender(who, &work)?];
        let steps = steps_of_a_turn(&mut pair[0])?;
        let (mut alone, mut both) = (Vec::new(), Vec::new());
        for turn in 0..bench.turns {
            alone.push(Spread::of(pair[turn % 2].turn(steps)?).median);
            both.push(at_once(&mut pair, steps)?);
        }
        let text = |times: &[f64]| format!("{} ms", digits(Spread::of(times.iter().copied()).median));
        let figure = Spread::of(alone.iter().zip(&both).map(|(alone, both)| 2. * alone / both));
        rows.push(Row { case: format!("{work}, {who}"), ours: text(&alone), theirs: text(&both), figure, bar: None });
    }
    if let Some(row) = rows.iter().find(|row| row.figure.median < QUIET) {
        eprintln!(
            "  two programs at once get {} of two cores ({}): something else runs on this machine, or on its host, and what keeps both cores busy will be slower than in docs/performance.md",
            row.figure, row.case
        );
    }
    Ok(Table { ours: "alone", theirs: "two at once", figure: "of two cores", rows })
}

/// The mean of the medians of both, which run at the same time.
fn at_once(pair: &mut [Contender; 2], steps: usize) -> anyhow::Result<f64> {
    let turns = thread::scope(|scope| {
        let running = pair.each_mut().map(|contender| scope.spawn(|| contender.turn(steps)));
        running.map(|turn| turn.join().map_err(|_| anyhow!("a turn panicked"))?)
    });
    let [first, second] = turns;
    Ok((Spread::of(first?).median + Spread::of(second?).median) / 2.)
}
