//! Proofs that a schedule is valid, whoever made it.

mod fault;

pub use fault::{Cycle, Fault, Missing, ValidationError};

use std::collections::{BTreeMap, BTreeSet};

use crate::list::{Action, ActionKind, DeadlockError, InFlight, Order, Schedule};
use crate::lower::Transport;
use crate::methods::{ScheduleKind, ScheduleKindError};

/// Limits that a schedule must keep, in addition to being valid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// The greatest number of (stage, micro-batch) pairs in flight on each rank, if it is declared.
    pub peak_in_flight: Option<Vec<usize>>,
    /// The least number of stages of every rank, if there is one.
    pub stages_per_rank: Option<usize>,
    /// The rank of each stage, if it is given.
    pub rank_of: Option<Vec<usize>>,
    /// The skips that the schedule must serve.
    pub skips: Vec<Route>,
}

/// A skip from one stage to a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The stage that stashes it.
    pub from: usize,
    /// The stage that pops it.
    pub to: usize,
    /// The greatest number of values that may wait in between, if it is declared.
    pub transit: Option<usize>,
}

impl Limits {
    /// The limits that the schedule declares.
    ///
    /// # Errors
    ///
    /// Fails if the schedule cannot run these ranks, stages and micro-batches.
    pub fn of(
        kind: ScheduleKind,
        ranks: usize,
        stages_per_rank: usize,
        micro_batches: usize,
    ) -> Result<Self, ScheduleKindError> {
        let peaks = (0..ranks).map(|rank| kind.peak_in_flight(rank, ranks, stages_per_rank, micro_batches));
        let peak_in_flight = Some(peaks.collect::<Result<_, _>>()?);
        kind.check(ranks, stages_per_rank, micro_batches)?;
        let rank_of = (0..ranks * stages_per_rank).map(|stage| kind.rank_of(stage, ranks, stages_per_rank));
        Ok(Self {
            peak_in_flight,
            stages_per_rank: Some(stages_per_rank),
            rank_of: Some(rank_of.collect()),
            skips: Vec::new(),
        })
    }

    /// Adds a skip from stage `from` to stage `to`.
    pub fn with_skip(mut self, from: usize, to: usize) -> Self {
        self.skips.push(Route { from, to, transit: None });
        self
    }
}

/// The number of faults of one kind that are listed.
const LISTED: usize = 50;

impl Schedule {
    /// Proves that the lists are a valid schedule and keep `limits`.
    ///
    /// There are three steps. Each is done only if the ones before found no fault, because lists
    /// with a missing action have no meaningful order.
    ///
    /// 1. Every action occurs once, within range, on its stage's rank. The actions of each stage
    ///    are in order. Every skip leads to a later stage. No more pairs are in flight than
    ///    declared.
    /// 2. No actions wait for each other in the lists. No more values of a skip are in transit than
    ///    declared.
    /// 3. The messages of the [lowered](Schedule::lower) lists are complete, and the lists finish
    ///    over either [`Transport`].
    ///
    /// # Errors
    ///
    /// Fails with the faults of the first step that finds any: up to 50 of each kind, and the
    /// number of further ones.
    pub fn validate(&self, limits: &Limits) -> Result<(), ValidationError> {
        let mut findings = Findings { faults: ValidationError { faults: Vec::new(), more: 0 } };
        let places = self.places(&mut findings);
        self.present(&places, &mut findings);
        self.placed(limits, &mut findings);
        self.in_order(&places, &mut findings);
        self.routes_exist(limits, &mut findings);
        self.peaks(limits, &mut findings);
        if findings.faults.faults.is_empty() {
            match self.order() {
                Ok(order) => self.transits(&order, limits, &mut findings),
                Err(stuck) => findings.push(Fault::Cycle(self.cycle(&stuck))),
            }
        }
        if findings.faults.faults.is_empty() {
            self.messages(limits, &mut findings);
        }
        if findings.faults.faults.is_empty() { Ok(()) } else { Err(findings.faults) }
    }

    /// Every action occurs once, and within range.
    fn places(&self, findings: &mut Findings) -> BTreeMap<Action, (usize, usize)> {
        let mut places = BTreeMap::new();
        let (mut out_of_range, mut twice) = (findings.counter(), findings.counter());
        for (rank, list) in self.ranks.iter().enumerate() {
            for (number, &action) in list.iter().enumerate() {
                if action.stage >= self.stages || action.micro_batch >= self.micro_batches {
                    let (stages, micro_batches) = (self.stages, self.micro_batches);
                    out_of_range.push(findings, Fault::OutOfRange { action, rank, stages, micro_batches });
                    continue;
                }
                let again = (rank, number);
                let first = *places.entry(action).or_insert(again);
                if first != again {
                    twice.push(findings, Fault::Twice { action, first, again });
                }
            }
        }
        places
    }

    /// No action is missing, and no backward is both whole and split.
    fn present(&self, places: &BTreeMap<Action, (usize, usize)>, findings: &mut Findings) {
        if self.stages == 0 || self.micro_batches == 0 {
            return findings.push(Fault::Empty { stages: self.stages, micro_batches: self.micro_batches });
        }
        let mut missing = findings.counter();
        let mut mixed = findings.counter();
        let pairs = (0..self.stages).flat_map(|stage| (0..self.micro_batches).map(move |i| (stage, i)));
        for (seen, (stage, micro_batch)) in pairs.enumerate() {
            // A schedule may claim to be far larger than its lists. Missing actions are then not
            // counted one by one.
            if missing.found > LISTED && seen > places.len() + LISTED {
                let pairs = self.stages.saturating_mul(self.micro_batches);
                findings.faults.more = findings.faults.more.saturating_add(pairs.saturating_sub(seen + 1));
                break;
            }
            let is_there = |kind| places.contains_key(&Action::new(kind, stage, micro_batch));
            let lacks = |kind, why| Fault::Missing { action: Action::new(kind, stage, micro_batch), why };
            let (whole, input, weight) = (
                is_there(ActionKind::Backward),
                is_there(ActionKind::BackwardInput),
                is_there(ActionKind::BackwardWeight),
            );
            if !is_there(ActionKind::Forward) {
                missing.push(findings, lacks(ActionKind::Forward, Missing::Forward));
            }
            for (part, kind) in [(input, ActionKind::BackwardInput), (weight, ActionKind::BackwardWeight)] {
                if whole && part {
                    let (whole, part) = (Action::backward(stage, micro_batch), Action::new(kind, stage, micro_batch));
                    mixed.push(findings, Fault::WholeAndSplit { whole, part });
                }
            }
            match (whole, input, weight) {
                (false, false, false) => missing.push(findings, lacks(ActionKind::Backward, Missing::Backward)),
                (false, true, false) => missing.push(findings, lacks(ActionKind::BackwardWeight, Missing::OtherPart)),
                (false, false, true) => missing.push(findings, lacks(ActionKind::BackwardInput, Missing::OtherPart)),
                _ => {}
            }
        }
    }

    /// All actions of a stage are on one rank, the one where it was placed, and every rank has its
    /// stages.
    fn placed(&self, limits: &Limits, findings: &mut Findings) {
        let mut owners: BTreeMap<usize, usize> = BTreeMap::new();
        if let Some(rank_of) = &limits.rank_of {
            owners.extend(rank_of.iter().copied().enumerate());
        }
        let mut stages = vec![BTreeSet::new(); self.ranks.len()];
        let mut elsewhere = findings.counter();
        for (rank, list) in self.ranks.iter().enumerate() {
            for &action in list.iter().filter(|action| action.stage < self.stages) {
                let owner = *owners.entry(action.stage).or_insert(rank);
                if owner != rank {
                    elsewhere.push(findings, Fault::Elsewhere { action, rank, owner });
                }
                stages[rank].insert(action.stage);
            }
        }
        let needed = limits.stages_per_rank.unwrap_or(0);
        for (rank, stages) in stages.iter().enumerate().filter(|(_, stages)| stages.len() < needed) {
            findings.push(Fault::FewerStages { rank, stages: stages.len(), needed });
        }
    }

    /// Within a stage and a micro-batch, the order is: forward, recomputation, backward for the
    /// inputs (or whole), backward for the parameters.
    fn in_order(&self, places: &BTreeMap<Action, (usize, usize)>, findings: &mut Findings) {
        let mut early = findings.counter();
        for (&action, &(rank, number)) in places {
            let earlier: &[ActionKind] = match action.kind {
                ActionKind::Forward => &[],
                ActionKind::Recompute => &[ActionKind::Forward],
                ActionKind::Backward | ActionKind::BackwardInput => &[ActionKind::Forward, ActionKind::Recompute],
                ActionKind::BackwardWeight => &[ActionKind::BackwardInput, ActionKind::Forward],
            };
            for &kind in earlier {
                let needed = Action { kind, ..action };
                let comes_later = |&&(other, place): &&(usize, usize)| other == rank && place > number;
                if places.get(&needed).filter(comes_later).is_some() {
                    early.push(
                        findings,
                        match kind {
                            ActionKind::Recompute => Fault::LateRecompute { action: needed, user: action, rank },
                            _ => Fault::Early { action, needed, rank },
                        },
                    );
                }
            }
        }
    }

    fn routes_exist(&self, limits: &Limits, findings: &mut Findings) {
        for &Route { from, to, .. } in &limits.skips {
            if from >= to || to >= self.stages {
                findings.push(Fault::Unserved { from, to, stages: self.stages });
            }
        }
    }

    fn peaks(&self, limits: &Limits, findings: &mut Findings) {
        let Some(declared) = &limits.peak_in_flight else { return };
        if declared.len() != self.ranks.len() {
            findings.push(Fault::Peaks { declared: declared.len(), ranks: self.ranks.len() });
        }
        for (rank, (list, &declared)) in self.ranks.iter().zip(declared).enumerate() {
            if let Some((peak, action)) = InFlight::default().peak(list).filter(|&(peak, _)| peak > declared) {
                findings.push(Fault::Peak { rank, peak, declared, action });
            }
        }
    }

    fn transits(&self, order: &Order, limits: &Limits, findings: &mut Findings) {
        for route in &limits.skips {
            let Some(declared) = route.transit else { continue };
            let peak = order.in_transit(ActionKind::Forward, route.from, route.to);
            if peak > declared {
                findings.push(Fault::Transit { from: route.from, to: route.to, peak, declared });
            }
        }
    }

    fn messages(&self, limits: &Limits, findings: &mut Findings) {
        let routes: Vec<_> = limits.skips.iter().map(|route| (route.from, route.to)).collect();
        let lowered = self.lower(&routes);
        for transport in [Transport::Rendezvous, Transport::InOrder] {
            let mut faulty = findings.counter();
            for fault in lowered.check(transport).err().into_iter().flatten() {
                faulty.push(findings, Fault::Message { transport, fault });
            }
        }
    }

    /// Follows the chain of waits from the first waiting action until it closes.
    fn cycle(&self, stuck: &DeadlockError) -> Cycle {
        let place = |action: Action| {
            let on =
                |(rank, list): (usize, &Vec<Action>)| Some((rank, list.iter().position(|&other| other == action)?));
            self.ranks.iter().enumerate().find_map(on)
        };
        let head = |rank: usize| stuck.0.iter().find(|&&(other, _)| other == rank).map(|&(_, action)| action);
        let waits = |rank: usize| {
            let action = head(rank)?;
            let at = place(action)?.1;
            let pending = |&needed: &Action| {
                let Some((other, number)) = place(needed) else { return false };
                let next = head(other).and_then(place).map_or(usize::MAX, |(_, number)| number);
                if other == rank { number >= at } else { number >= next }
            };
            let needed = action.needs(self.stages).find(pending)?;
            Some((rank, action, needed, place(needed)?.0))
        };
        let mut chain: Vec<(usize, Action, Action)> = Vec::new();
        let mut rank = stuck.0.first().map(|&(rank, _)| rank);
        while let Some((at, action, needed, next)) = rank.and_then(waits) {
            if let Some(start) = chain.iter().position(|&(other, ..)| other == at) {
                return Cycle(chain.split_off(start));
            }
            chain.push((at, action, needed));
            rank = Some(next);
        }
        Cycle(chain)
    }
}

/// The faults that were found so far.
struct Findings {
    faults: ValidationError,
}

impl Findings {
    fn push(&mut self, fault: Fault) {
        self.faults.faults.push(fault);
    }

    fn counter(&self) -> Counter {
        Counter { found: 0 }
    }
}

/// Lists the first faults of a kind, and counts the rest.
struct Counter {
    found: usize,
}

impl Counter {
    fn push(&mut self, findings: &mut Findings, fault: Fault) {
        self.found += 1;
        match self.found <= LISTED {
            true => findings.push(fault),
            false => findings.faults.more = findings.faults.more.saturating_add(1),
        }
    }
}
