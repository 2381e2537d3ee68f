use std::collections::BTreeSet;
use std::fmt;

use super::{Advice, Candidate};

/// How many of each kind are listed.
const LISTED: usize = 12;

impl Advice {
    /// Why the best one is the best, or why there is none.
    pub fn why(&self) -> String {
        let Some(best) = &self.best else {
            return match self.too_large.first() {
                None => "nothing can run these stages and micro-batches".to_owned(),
                Some(smallest) => format!(
                    "nothing fits into {}: the smallest, {smallest}, needs {}",
                    short(self.memory_limit),
                    short(smallest.memory)
                ),
            };
        };
        let mut why =
            format!("{best}: {} per step in {} of {}", short(best.time), short(best.memory), short(self.memory_limit));
        let faster = self.too_large.iter().filter(|other| other.time < best.time);
        if let Some(fastest) = faster.min_by(|a, b| a.time.total_cmp(&b.time)) {
            why += &format!("; {fastest} would take {} but needs {}", short(fastest.time), short(fastest.memory));
        }
        why
    }

    fn row(&self, candidate: &Candidate, verdict: &str) -> String {
        let Candidate { method, stages_per_rank, micro_batches, checkpointing, time, memory } = candidate;
        let (time, memory) = (short(*time), short(*memory));
        format!(
            "{method:<12} {stages_per_rank:>6} {micro_batches:>13}  {checkpointing:<11} {time:>10} {memory:>10}  {verdict}"
        )
    }
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Candidate { method, stages_per_rank, micro_batches, checkpointing, .. } = self;
        let stages = if *stages_per_rank == 1 { "1 stage".to_owned() } else { format!("{stages_per_rank} stages") };
        write!(f, "`{method}` with {stages} per rank, {micro_batches} micro-batches, checkpointing {checkpointing}")
    }
}

/// The reason in words, then a table: of each schedule and checkpointing the best that fits, then those that need too much memory, then what was
/// refused.
impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.why())?;
        writeln!(f)?;
        writeln!(
            f,
            "{:<12} {:>6} {:>13}  {:<11} {:>10} {:>10}",
            "schedule", "stages", "micro-batches", "checkpoint", "time", "memory"
        )?;
        let mut seen = BTreeSet::new();
        let mut once = |candidate: &&Candidate| {
            seen.insert((candidate.method, candidate.stages_per_rank, candidate.checkpointing))
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
