//! Determines which uses of memory the log's events put in order, by vector clocks (Mattern 1989,
//! "Virtual Time and Global States of Distributed Systems").
//!
//! Each stream counts its uses. Its clock says how many uses of each other stream are certainly
//! over when its next one starts. A stream learns from events that it waits for, and from the
//! thread that queues its work, which knows the events that the thread has waited for. Two uses of
//! one block must be in order if at least one of them writes. A freed block returns to the stream
//! that allocated it: by then, the uses on other streams must be over for that stream, or known to
//! the allocator.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Entry, Kind};

/// A device stream, or the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Agent {
    Stream(i64),
    /// All threads together. Locks put their uses of memory in order, which is not checked here.
    Host,
}

/// Number of uses that are over, per agent.
#[derive(Clone, Debug, Default)]
struct Clock(BTreeMap<Agent, usize>);

impl Clock {
    fn learn(&mut self, other: &Self) {
        for (&agent, &uses) in &other.0 {
            let known = self.0.entry(agent).or_default();
            *known = uses.max(*known);
        }
    }

    fn tick(&mut self, agent: Agent) -> usize {
        let uses = self.0.entry(agent).or_default();
        *uses += 1;
        *uses
    }

    fn knows(&self, used: &Used) -> bool {
        self.0.get(&used.by).is_some_and(|&uses| uses >= used.number)
    }
}

/// One use of a block.
#[derive(Clone, Debug)]
struct Used {
    by: Agent,
    number: usize,
    writes: bool,
    name: String,
}

#[derive(Debug, Default)]
struct Block {
    owner: Option<Agent>,
    /// The last write and the last read of each agent. A clock that knows one of them knows the
    /// earlier ones too.
    uses: BTreeMap<(Agent, bool), Used>,
    /// Agents whose uses are known to the allocator.
    told: BTreeSet<Agent>,
}

#[derive(Debug, Default)]
struct State {
    clocks: BTreeMap<Agent, Clock>,
    /// Clock of the uses that each thread has waited for.
    threads: BTreeMap<i64, Clock>,
    events: BTreeMap<i64, Clock>,
    blocks: BTreeMap<i64, Block>,
    found: Vec<String>,
}

/// Describes the uses of memory that the events in the log do not put in order.
///
/// ```
/// use pipe_mock_device::{Entry, Kind, violations};
///
/// let entry = |kind, stream, object| Entry { kind, thread: 0, stream, object, name: "op".into() };
/// let write = entry(Kind::Write, 1, 7);
/// let read = entry(Kind::Read, 2, 7);
/// assert_eq!(violations(&[write.clone(), read.clone()]).len(), 1);
/// let (record, wait) = (entry(Kind::Record, 1, 0), entry(Kind::Wait, 2, 0));
/// assert!(violations(&[write, record, wait, read]).is_empty());
/// ```
pub fn violations(log: &[Entry]) -> Vec<String> {
    let mut state = State::default();
    log.iter().for_each(|entry| state.add(entry));
    state.found
}

impl State {
    fn add(&mut self, entry: &Entry) {
        let stream = Agent::Stream(entry.stream);
        match entry.kind {
            Kind::Read | Kind::Write => {
                let launched = self.threads.entry(entry.thread).or_default().clone();
                let host = self.clocks.entry(Agent::Host).or_default().0.get(&Agent::Host).copied();
                let clock = self.clocks.entry(stream).or_default();
                clock.learn(&launched);
                clock.0.extend(host.map(|uses| (Agent::Host, uses)));
                self.used(stream, entry);
            }
            Kind::HostRead | Kind::HostWrite => self.used(Agent::Host, entry),
            Kind::Allocate => {
                self.blocks
                    .insert(entry.object, Block { owner: (entry.stream >= 0).then_some(stream), ..Block::default() });
            }
            Kind::Use => {
                self.blocks.entry(entry.object).or_default().told.insert(stream);
            }
            Kind::Free => self.freed(entry),
            Kind::Record => {
                let clock = self.clocks.entry(stream).or_default().clone();
                self.events.insert(entry.object, clock);
            }
            Kind::Wait => {
                let event = self.events.get(&entry.object).cloned().unwrap_or_default();
                self.clocks.entry(stream).or_default().learn(&event);
            }
            Kind::HostWaitsForEvent => {
                let event = self.events.get(&entry.object).cloned().unwrap_or_default();
                self.host_learns(entry.thread, &event);
            }
            Kind::HostWaitsForStream => {
                let clock = self.clocks.entry(stream).or_default().clone();
                self.host_learns(entry.thread, &clock);
            }
            Kind::HostWaitsForDevice => {
                let of_device = |agent: &Agent| matches!(agent, Agent::Stream(s) if s / 1000 == entry.stream / 1000);
                let clocks: Vec<_> =
                    self.clocks.iter().filter(|(agent, _)| of_device(agent)).map(|(_, clock)| clock.clone()).collect();
                clocks.iter().for_each(|clock| self.host_learns(entry.thread, clock));
            }
        }
    }

    fn host_learns(&mut self, thread: i64, clock: &Clock) {
        self.threads.entry(thread).or_default().learn(clock);
        self.clocks.entry(Agent::Host).or_default().learn(clock);
    }

    fn used(&mut self, by: Agent, entry: &Entry) {
        let writes = matches!(entry.kind, Kind::Write | Kind::HostWrite);
        let clock = self.clocks.entry(by).or_default();
        let block = self.blocks.entry(entry.object).or_default();
        for earlier in block.uses.values() {
            if (writes || earlier.writes) && earlier.by != by && !clock.knows(earlier) {
                self.found.push(format!(
                    "`{}` on {by:?} uses block {} without waiting for `{}` on {:?}",
                    entry.name, entry.object, earlier.name, earlier.by
                ));
            }
        }
        let number = clock.tick(by);
        block.uses.insert((by, writes), Used { by, number, writes, name: entry.name.clone() });
    }

    fn freed(&mut self, entry: &Entry) {
        let Some(block) = self.blocks.remove(&entry.object) else { return };
        let Some(owner) = block.owner else { return };
        let clock = self.clocks.entry(owner).or_default();
        for used in block.uses.values() {
            if used.by != owner && !block.told.contains(&used.by) && !clock.knows(used) {
                self.found.push(format!(
                    "block {} of {owner:?} is freed while `{}` on {:?} may still use it, of which the allocator does not know",
                    entry.object, used.name, used.by
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: Kind, thread: i64, stream: i64, object: i64) -> Entry {
        Entry { kind, thread, stream, object, name: format!("{kind:?}") }
    }

    #[test]
    fn an_event_of_the_wrong_moment_does_not_help() {
        let log = [
            entry(Kind::Record, 0, 1, 0),
            entry(Kind::Write, 0, 1, 7),
            entry(Kind::Wait, 1, 2, 0),
            entry(Kind::Read, 1, 2, 7),
        ];
        assert_eq!(violations(&log).len(), 1);
    }

    #[test]
    fn order_is_transitive_and_reads_need_none() {
        let log = [
            entry(Kind::Write, 0, 1, 7),
            entry(Kind::Record, 0, 1, 0),
            entry(Kind::Wait, 0, 2, 0),
            entry(Kind::Record, 0, 2, 1),
            entry(Kind::Wait, 0, 3, 1),
            entry(Kind::Read, 0, 3, 7),
            entry(Kind::Read, 0, 2, 7),
        ];
        assert_eq!(violations(&log), Vec::<String>::new());
    }

    #[test]
    fn a_thread_that_waited_hands_on_what_it_knows_and_others_do_not() {
        let log = |thread| {
            [entry(Kind::Write, 0, 1, 7), entry(Kind::HostWaitsForStream, 0, 1, 0), entry(Kind::Read, thread, 2, 7)]
        };
        assert!(violations(&log(0)).is_empty());
        assert_eq!(violations(&log(1)).len(), 1);
    }

    #[test]
    fn the_cpu_must_wait_for_a_copy_into_pinned_memory() {
        let early = [entry(Kind::Write, 0, 1, 7), entry(Kind::HostRead, 0, 0, 7)];
        assert_eq!(violations(&early).len(), 1);
        let waits = [
            entry(Kind::Write, 0, 1, 7),
            entry(Kind::Record, 0, 1, 0),
            entry(Kind::HostWaitsForEvent, 0, 0, 0),
            entry(Kind::HostRead, 3, 0, 7),
        ];
        assert!(violations(&waits).is_empty());
    }

    #[test]
    fn memory_that_another_stream_uses_is_freed_only_with_the_allocators_knowledge() {
        let log = |told: bool| {
            let mut log = vec![
                entry(Kind::Allocate, 0, 1, 7),
                entry(Kind::Write, 0, 1, 7),
                entry(Kind::Record, 0, 1, 0),
                entry(Kind::Wait, 0, 2, 0),
                entry(Kind::Read, 0, 2, 7),
            ];
            log.extend(told.then(|| entry(Kind::Use, 0, 2, 7)));
            log.push(entry(Kind::Free, 0, 0, 7));
            log
        };
        assert!(violations(&log(true)).is_empty());
        assert_eq!(violations(&log(false)).len(), 1);
    }
}
