use std::collections::BTreeSet;
use std::fmt;

use super::{Advice, Candidate, Units};
use crate::support::table::{Side, Table};
use crate::support::{bytes, short};

/// The number of candidates that are listed, of those that fit and of those that do not.
const LISTED: usize = 12;

impl Candidate {
    /// The settings to write for it: `schedule = zbv, chunks = 6, checkpoint = except_last`.
    pub fn settings(&self) -> String {
        let Candidate { kind, micro_batches, checkpoint, .. } = self;
        let name = kind.as_setting();
        format!("schedule = {name}, chunks = {micro_batches}, checkpoint = {checkpoint}")
    }
}

impl Advice {
    /// The reason why the best candidate is the best, or why there is none.
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

    fn row(&self, candidate: &Candidate, verdict: String) -> Vec<String> {
        let Candidate { kind, ranks, stages_per_rank, micro_batches, checkpoint, time, memory } = candidate;
        let (time, memory) = (self.units.time(*time), self.units.memory(*memory));
        let [ranks, stages_per_rank, micro_batches] = [ranks, stages_per_rank, micro_batches].map(usize::to_string);
        vec![kind.to_string(), ranks, stages_per_rank, micro_batches, checkpoint.to_string(), time, memory, verdict]
    }
}

impl Units {
    /// A time with its unit.
    pub fn time(self, value: f64) -> String {
        match self {
            Units::Plain => short(value),
            Units::SecondsAndBytes if value >= 1. => format!("{} s", short(value)),
            Units::SecondsAndBytes => format!("{} ms", short(value * 1e3)),
        }
    }

    fn memory(self, value: f64) -> String {
        match self {
            Units::Plain => short(value),
            Units::SecondsAndBytes => bytes(value),
        }
    }
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Candidate { kind, ranks, stages_per_rank, micro_batches, checkpoint, .. } = self;
        let stages = if *stages_per_rank == 1 { "1 stage".to_owned() } else { format!("{stages_per_rank} stages") };
        let ranks = if *ranks == 1 { "1 rank".to_owned() } else { format!("{ranks} ranks") };
        write!(f, "`{kind}` on {ranks} with {stages} each, {micro_batches} micro-batches, checkpointing {checkpoint}")
    }
}

/// Prints the reason, the settings to write, and a table. The table has the best candidate for each
/// schedule, its ranks and stages, and each checkpoint mode: first those that fit, then those that
/// need too much memory. The refused schedules follow, with the reasons.
impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.why())?;
        if let Some(best) = &self.best {
            writeln!(f, "write: {}", best.settings())?;
            if let Some(cores) = self.cores {
                let ranks = best.ranks;
                let each = if ranks == 1 {
                    "1 rank on 1 free core".to_owned()
                } else {
                    format!("{ranks} ranks on {ranks} free cores")
                };
                writeln!(f, "time: that of {each}, of {cores} here; what else runs on them adds to it")?;
            }
        }
        writeln!(f)?;
        let (left, right) = (Side::Left, Side::Right);
        let mut table = Table::new(&[
            ("schedule", left),
            ("ranks", right),
            ("stages", right),
            ("micro-batches", right),
            ("checkpoint", left),
            ("time", right),
            ("memory", right),
            ("", left),
        ]);
        let mut seen = BTreeSet::new();
        let mut once = |candidate: &&Candidate| {
            seen.insert((candidate.kind, candidate.ranks, candidate.stages_per_rank, candidate.checkpoint))
        };
        for candidate in self.fitting.iter().filter(&mut once).take(LISTED) {
            let best = self.best.as_ref().map_or(candidate.time, |best| best.time);
            let verdict = match self.best.as_ref() {
                Some(best) if best == candidate => "the best".to_owned(),
                _ if candidate.time == best => "as fast, but larger or less simple".to_owned(),
                _ => format!("{} % slower", short(100. * (candidate.time / best - 1.))),
            };
            table.push(self.row(candidate, verdict));
        }
        for candidate in self.too_large.iter().filter(&mut once).take(LISTED) {
            let excess = 100. * (candidate.memory / self.memory_limit - 1.);
            let verdict =
                if excess.is_finite() { format!("{} % too large", short(excess)) } else { "too large".to_owned() };
            table.push(self.row(candidate, verdict));
        }
        table.lines().iter().try_for_each(|line| writeln!(f, "{line}"))?;
        let mut seen = BTreeSet::new();
        let mut refused = self.refused.iter().map(|(_, error)| error).filter(|error| seen.insert(error.kind()));
        refused.try_for_each(|error| writeln!(f, "{error}"))
    }
}
