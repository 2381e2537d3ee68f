use std::fmt;

use super::svg::{Panel, Picture};
use crate::timeline::Timeline;
use crate::trace::Trace;

/// The number of columns of the grid in the terminal.
const COLUMNS: usize = 96;

impl Trace {
    /// Draws the [typical](Trace::typical) run above the simulation of the same lists with the
    /// measured costs, on one axis of time, in milliseconds. Rows, boxes and columns are as in
    /// [`Simulation::to_svg`](crate::Simulation::to_svg).
    pub fn to_svg(&self) -> String {
        let lines = self.timelines();
        let panels: Vec<_> = lines
            .iter()
            .map(|(title, timeline)| Panel { title: Some(title.clone()), timeline, in_flight: None })
            .collect();
        Picture::new(&panels, "ms", 1400.).draw()
    }

    /// The measured and the simulated timeline, with titles, in milliseconds.
    fn timelines(&self) -> Vec<(String, Timeline)> {
        let run = self.typical();
        let measured = run.timeline().scaled(1e3);
        let (ranks, threads) = (run.schedule.ranks.len(), run.threads());
        let served = match threads < ranks {
            true => format!(", {ranks} ranks on {threads} thread{}", if threads == 1 { "" } else { "s" }),
            false => String::new(),
        };
        let mut lines = vec![(format!("measured: {}{served}", summary(&measured)), measured)];
        if let Ok(simulated) = self.simulated() {
            let simulated = simulated.timeline.scaled(1e3);
            lines.push((format!("simulated from the measured costs: {}", summary(&simulated)), simulated));
        }
        lines
    }
}

fn summary(timeline: &Timeline) -> String {
    format!("{:.2} ms, {:.0} % of it work", timeline.makespan, 100. * timeline.efficiency())
}

/// Prints the measured run above the simulated one, on one axis of time. An action is its kind and
/// micro-batch, filled up to its length with `-`; its number is left out if it is too short. A dot
/// is a column in which the rank waits. The idle time of each rank follows.
impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self.timelines();
        let end = lines.iter().map(|(_, timeline)| timeline.makespan).fold(0., f64::max);
        for (title, timeline) in &lines {
            writeln!(f, "{title}")?;
            let label = format!("rank {}", timeline.ranks.len().saturating_sub(1)).len();
            for rank in 0..timeline.ranks.len() {
                let idle = 100. * timeline.idle(rank) / timeline.makespan.max(f64::MIN_POSITIVE);
                let name = format!("rank {rank}");
                writeln!(f, "{name:<label$}  {}  idle {idle:.0} %", row(timeline, rank, end))?;
            }
        }
        Ok(())
    }
}

fn row(timeline: &Timeline, rank: usize, end: f64) -> String {
    let column = |time: f64| ((time / end * COLUMNS as f64).round() as usize).min(COLUMNS);
    let mut row = vec!['.'; COLUMNS];
    row[column(timeline.makespan)..].fill(' ');
    let one_stage = timeline.stages()[rank].len() < 2;
    for span in &timeline.ranks[rank] {
        let cells = &mut row[column(span.start)..column(span.end)];
        let (letter, micro_batch) = (span.action.kind.letter(), span.action.micro_batch);
        let name = if one_stage { format!("{letter}{micro_batch}") } else { span.action.to_string() };
        let short = if name.len() <= cells.len() { name } else { letter.to_string() };
        cells.fill('-');
        cells.iter_mut().zip(short.chars()).for_each(|(cell, character)| *cell = character);
    }
    row.into_iter().collect()
}
