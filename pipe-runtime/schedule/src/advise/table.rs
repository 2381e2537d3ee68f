use std::collections::BTreeSet;
use std::fmt;

use super::{Advice, Candidate, Units};

/// How many of each kind are listed.
const LISTED: usize = 12;

impl Candidate {
    /// What to write for it: `schedule = zbv, chunks = 6, checkpoint = except_last`.
    pub fn settings(&self) -> String {
        let Candidate { method, micro_batches, checkpointing, .. } = self;
        let name = match method.name() {
            // No identifier starts with a digit.
            name if name.starts_with(|first: char| first.is_ascii_digit()) => format!("\"{name}\""),
            name => name.to_owned(),
        };
        format!("schedule = {name}, chunks = {micro_batches}, checkpoint = {checkpointing}")
    }
}

impl Advice {
    /// Why the best one is the best, or why there is none.
    pub fn why(&self) -> String {
        let limit = match self.memory_limit {
            limit if limit.is_finite() => self.units.memory(limit),
            _ => "any memory".to_owned(),
        };
        let Some(best) = &self.best else {
            return match self.too_large.first() {
                None => "nothing can run these stages and micro-batches".to_owned(),
                Some(smallest) => format!(
                    "nothing fits into {limit}: the smallest, {smallest}, needs {}",
                    self.units.memory(smallest.memory)
                ),
            };
        };
        let (time, memory) = (self.units.time(best.time), self.units.memory(best.memory));
        let mut why = format!("{best}: {time} per step in {memory} of {limit}");
        let faster = self.too_large.iter().filter(|other| other.time < best.time);
        if let Some(fastest) = faster.min_by(|a, b| a.time.total_cmp(&b.time)) {
            let (time, memory) = (self.units.time(fastest.time), self.units.memory(fastest.memory));
            why += &format!("; {fastest} would take {time} but needs {memory}");
        }
        why
    }

    fn row(&self, candidate: &Candidate, verdict: &str) -> String {
        let Candidate { method, ranks, stages_per_rank, micro_batches, checkpointing, time, memory } = candidate;
        let (time, memory) = (self.units.time(*time), self.units.memory(*memory));
        format!(
            "{method:<12} {ranks:>5} {stages_per_rank:>6} {micro_batches:>13}  {checkpointing:<11} {time:>10} {memory:>10}  {verdict}"
        )
    }
}

impl Units {
    fn time(self, value: f64) -> String {
        match self {
            Units::Plain => short(value),
            Units::SecondsAndBytes if value >= 1. => format!("{} s", short(value)),
            Units::SecondsAndBytes => format!("{} ms", short(value * 1e3)),
        }
    }

    fn memory(self, value: f64) -> String {
        const MIB: f64 = 1024. * 1024.;
        match self {
            Units::Plain => short(value),
            Units::SecondsAndBytes if value >= 1024. * MIB => format!("{} GiB", short(value / (1024. * MIB))),
            Units::SecondsAndBytes => format!("{} MiB", short(value / MIB)),
        }
    }
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Candidate { method, ranks, stages_per_rank, micro_batches, checkpointing, .. } = self;
        let stages = if *stages_per_rank == 1 { "1 stage".to_owned() } else { format!("{stages_per_rank} stages") };
        let ranks = if *ranks == 1 { "1 rank".to_owned() } else { format!("{ranks} ranks") };
        write!(
            f,
            "`{method}` on {ranks} with {stages} each, {micro_batches} micro-batches, checkpointing {checkpointing}"
        )
    }
}

/// The reason in words, what to write, then a table: of each schedule and checkpointing the best that fits, then those that need too much memory, then what was
/// refused.
impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.why())?;
        if let Some(best) = &self.best {
            writeln!(f, "write: {}", best.settings())?;
        }
        writeln!(f)?;
        writeln!(
            f,
            "{:<12} {:>5} {:>6} {:>13}  {:<11} {:>10} {:>10}",
            "schedule", "ranks", "stages", "micro-batches", "checkpoint", "time", "memory"
        )?;
        let mut seen = BTreeSet::new();
        let mut once = |candidate: &&Candidate| {
            seen.insert((candidate.method, candidate.ranks, candidate.stages_per_rank, candidate.checkpointing))
        };
        for candidate in self.fitting.iter().filter(&mut once).take(LISTED) {
            let best = self.best.as_ref().map_or(candidate.time, |best| best.time);
            let verdict = match self.best.as_ref() {
                Some(best) if best == candidate => "the best".to_owned(),
                _ if candidate.time == best => "as fast, but larger or less simple".to_owned(),
                _ => format!("{} % slower", short(100. * (candidate.time / best - 1.))),
            };
            writeln!(f, "{}", self.row(candidate, &verdict))?;
        }
        for candidate in self.too_large.iter().filter(&mut once).take(LISTED) {
            let excess = 100. * (candidate.memory / self.memory_limit - 1.);
            let verdict =
                if excess.is_finite() { format!("{} % too large", short(excess)) } else { "too large".to_owned() };
            writeln!(f, "{}", self.row(candidate, &verdict))?;
        }
        let mut seen = BTreeSet::new();
        for (_, illegal) in &self.refused {
            if seen.insert(illegal.method()) {
                writeln!(f, "{:<12} {illegal}", illegal.method())?;
            }
        }
        Ok(())
    }
}

/// Three digits that count, or all before the point.
fn short(value: f64) -> String {
    let digits = match value.abs() {
        value if value >= 100. => 0,
        value if value >= 10. => 1,
        value if value >= 0.1 || value == 0. => 2,
        _ => 5,
    };
    let text = format!("{value:.digits$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}
