//! The table and its place in the page.

use std::fmt::Write;

use anyhow::Result;
use pipe_runtime::schedule::Timeline;
use pipe_runtime::{ScheduleKind, Trace};

const BEGIN: &str = "<!-- measured: begin -->\n";
const END: &str = "<!-- measured: end -->\n";

/// The numbers of one schedule, measured and simulated.
#[derive(Debug)]
pub struct Row {
    method: ScheduleKind,
    stages_per_rank: usize,
    measured: Numbers,
    simulated: Numbers,
}

#[derive(Debug)]
struct Numbers {
    milliseconds: f64,
    /// Idle time of the rank that waits longest, in percent of the step.
    idle: f64,
    /// Peak memory of the activations in flight, in MiB, for the stage with the most.
    in_flight: f64,
}

impl Row {
    /// Makes a row. `peaks` are the observed peak numbers of micro-batches in flight, by stage.
    pub fn new(method: ScheduleKind, trace: &Trace, peaks: &[usize]) -> Result<Self> {
        let run = trace.typical();
        let declared: Vec<_> = run.schedule.peak_in_flight_by_stage().into_values().collect();
        let most = |peaks: &[usize]| {
            let bytes = peaks.iter().zip(&trace.sizes.stages).map(|(&peak, sizes)| peak as f64 * sizes.activation);
            bytes.fold(0., f64::max)
        };
        Ok(Self {
            method,
            stages_per_rank: run.schedule.stages / run.schedule.ranks.len(),
            measured: Numbers::new(&run.timeline(), most(peaks)),
            simulated: Numbers::new(&trace.simulated()?.timeline, most(&declared)),
        })
    }
}

impl Numbers {
    fn new(timeline: &Timeline, bytes: f64) -> Self {
        let idle = (0..timeline.ranks.len()).map(|rank| timeline.idle(rank) / timeline.makespan);
        Self {
            milliseconds: timeline.makespan * 1e3,
            idle: 100. * idle.fold(0., f64::max),
            in_flight: bytes / (1024. * 1024.),
        }
    }
}

/// Formats all rows in Markdown.
pub fn table(rows: &[Row]) -> String {
    let mut table = "| schedule | stages per rank | step: measured | simulated | idle: measured | simulated | in flight: measured | by the lists |\n\
                     | --- | --- | --- | --- | --- | --- | --- | --- |\n"
        .to_owned();
    for Row { method, stages_per_rank, measured, simulated } in rows {
        let _ = writeln!(
            table,
            "| `{method}` | {stages_per_rank} | {:.1} ms | {:.1} ms | {:.0} % | {:.0} % | {:.1} MiB | {:.1} MiB |",
            measured.milliseconds,
            simulated.milliseconds,
            measured.idle,
            simulated.idle,
            measured.in_flight,
            simulated.in_flight
        );
    }
    table
}

/// The page with its table replaced by this one.
pub fn replaced(page: &str, table: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{table}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_keeps_everything_but_the_table() {
        let page = format!("a\n{BEGIN}old\n{END}b\n");
        assert_eq!(replaced(&page, "new\n"), Some(format!("a\n{BEGIN}new\n{END}b\n")));
        assert_eq!(replaced("a page without a place", ""), None);
    }
}
